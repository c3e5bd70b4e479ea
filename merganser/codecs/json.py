import json, duckdb, numpy as np, pyarrow as pa
from merganser.codecs import Chunk, Decoded, Place
class JsonCodec:
    def __init__(self, schema):
        from merganser.sql import scratch; self.con = scratch()
        self.q = "select unnest(json_transform_strict(l, '" + json.dumps({c.name: c.type for c in schema.columns}) + "')) from raw"
    def decode(self, chunk):
        b = chunk.payload
        a = np.frombuffer(b, np.uint8); nl = np.flatnonzero(a == 10)
        off = np.empty(len(nl)+1, np.int32); off[0] = 0; off[1:] = nl+1
        self.con.register('raw', pa.table({'l': pa.Array.from_buffers(pa.utf8(), len(nl), [None, pa.py_buffer(off), pa.py_buffer(b)])}))
        t = self.con.sql(self.q).to_arrow_table()
        return Decoded(t.append_column('_seq', pa.array(np.arange(chunk.seq, chunk.seq+len(t)))), [])
    def locate(self, chunk, seqs):
        lines = chunk.payload.split(b'\n')
        return [(Place(chunk.place.file, None, None), lines[s-chunk.seq]) for s in seqs]
