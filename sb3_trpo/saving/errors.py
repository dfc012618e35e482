"""Why a file is not read."""


class FileError(ValueError):
    """A file cannot be used; names it, and what is wrong with it."""


class UntrustedError(FileError):
    """A file holds what could run code of whoever made it; names the entries and what to do."""


class MalformedError(ValueError):
    """A part of a file is not what it should be."""


class NotAllowedError(MalformedError):
    """A part of a file asks for what could do harm: for what is not on the list, or what no value needs."""
