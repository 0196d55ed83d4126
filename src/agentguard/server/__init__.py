"""HTTP, and nothing else: each server is a thin shell around a part of the library that knows no HTTP. Needs the extra `server`."""
