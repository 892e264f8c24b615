"""The same verbs on another device over ssh: docs/DEPLOY.md.

``inventory`` knows devices, ``transport`` reaches them, ``sync`` sends files by content, ``bootstrap`` installs edgecnn, ``job`` runs a
command under the device's supervisor (``far``), ``run`` is all of them for one device, ``fleet`` for many.
"""
