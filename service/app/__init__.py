"""The composition root: settings in, a wired service out. The only room that knows all others."""
