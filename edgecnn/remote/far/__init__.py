"""The far side: a program of the standard library alone, for Python 3.8 or newer, that is sent to the device with every connection.

``serve`` reads requests (a JSON line, perhaps followed by bytes) on stdin and answers each on stdout in the same form. Under its root:

    objects/<sha256>   files by content, put there whole or not at all
    incoming/<sha256>  files that are still arriving; a later connection goes on where one was cut
    venvs/<key>/       environments that edgecnn was installed into
    jobs/<id>/         one command: its inputs, what it prints, and its lease

A job is the child of a supervisor that no connection owns. Every ``poll`` of a client renews the job's lease; when nobody has polled
for the grace, the supervisor kills the job's processes and removes its folder. So a cut connection loses nothing, and a dead client
leaves nothing.
"""
