"""Avro to Arrow: single datums (``DatumReader``) and the blocks of container files (``AvroCodec``).

There is no loop over records: a cursor stands in many of them at once, and reads the same field of all (``codecs.cursor``).
"""

from merganser.codecs.avro.blocks import AvroCodec, Block, Blocks
from merganser.codecs.avro.datums import DatumReader

__all__ = ["AvroCodec", "Block", "Blocks", "DatumReader"]
