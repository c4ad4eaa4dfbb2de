"""InfraKit's Instance interface on the wire: the only place with wire names.

`wire` has the names and shapes, for both ends; `methods` answers calls, `info` the documents; `remote` makes calls.
"""
