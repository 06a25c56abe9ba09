# Nothing here is for other extensions.
