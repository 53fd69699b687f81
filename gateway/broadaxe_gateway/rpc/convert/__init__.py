"""Wire messages to engine messages and back: the only package that imports both.

Pure: a request that is not as the wire contract says raises `Refused` naming the field and the value, and nothing has
happened then. One noun a module.
"""
