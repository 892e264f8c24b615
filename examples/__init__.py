"""Small applications around :mod:`edgecnn.runtime`, to be read and copied: a camera loop, an HTTP service, a job over a folder."""
