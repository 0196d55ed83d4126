"""Tools as the guard knows them: how they bind, what is pinned of them, what is locked (DESIGN §10)."""
