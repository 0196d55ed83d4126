"""Questions about policies, asked beside the guard: nothing in here decides a call."""
