"""What keeps earlier tasks while later ones are learned, each a value of the group `retain`.

A remedy is one file: what it keeps of the past, and what it does to an outer step (`base.Remedy`). They
combine with each other and with any algorithm, because they see tasks, meta-parameters and meta-gradients
alone.
"""
