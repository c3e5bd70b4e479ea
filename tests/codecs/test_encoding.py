"""What is written is read by the reference libraries, and by our own readers, as the values that were given."""

from __future__ import annotations

import io

import fastavro
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from merganser.codecs.encoding.avro import datums
from merganser.codecs.encoding.pieces import Trouble
from merganser.codecs.encoding.protobuf import messages
from merganser.schema.avro import parse
from tests.codecs.avro_data import records, same
from tests.codecs.proto_data import message_types
from tests.codecs.proto_data import messages as proto_messages
from tests.codecs.test_avro import SLOW, read, write
from tests.codecs.test_protobuf import by_reference, comparable
from tests.codecs.test_protobuf import read as read_messages


@SLOW
@given(st.data())
def test_fastavro_reads_the_datums_as_the_values_they_were(data: st.DataObject) -> None:
    tree, values = data.draw(records())
    rows = data.draw(st.lists(values, min_size=1, max_size=6))
    parsed = fastavro.parse_schema(tree)
    theirs = write(tree, rows)
    table, _, _ = read(tree, theirs)
    trouble = Trouble()
    ours = datums(parse(tree, "test"), table, trouble).to_pylist()
    assert not trouble.of
    assert all(map(same, table.to_pylist(), (fastavro.schemaless_reader(io.BytesIO(raw), parsed) for raw in ours)))
    assert read(tree, ours)[0].equals(table) or "nan" in str(table.to_pylist())


@SLOW
@given(st.data())
def test_googles_library_reads_the_messages_as_the_values_they_were(data: st.DataObject) -> None:
    kind = data.draw(message_types())
    theirs = [m.SerializeToString() for m in data.draw(st.lists(proto_messages(kind), min_size=1, max_size=6))]
    table, numbers, _ = read_messages(kind, theirs)
    trouble = Trouble()
    ours = messages(kind, table, trouble).to_pylist()
    assert not trouble.of
    for i, raw in enumerate(ours):
        expected = kind.kind.FromString(theirs[numbers[i]])
        assert comparable(by_reference(kind, raw, table.schema)) == comparable(table.slice(i, 1).to_pylist()[0])
        assert kind.kind.FromString(raw) == expected or "nan" in str(expected)
        assert len(raw) == len(expected.SerializeToString())


def test_a_union_in_a_record_that_can_be_null() -> None:
    """Arrow's flatten() ends the process for such records."""
    tree = {"type": "record", "name": "R", "fields": [{"name": "u", "type": ["long", "string"]}]}
    union = pa.UnionArray.from_sparse(pa.array([0, 1, 1], pa.int8()), [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])])
    rows = pa.table({"r": pa.StructArray.from_arrays([union], ["u"], mask=pa.array([False, True, False]))})
    for kind, expected in (["null", tree], [b"\2\0\2", b"\0", b"\2\2\2c"]), (tree, [b"\0\2", b"\0\0", b"\2\2c"]):
        trouble = Trouble()
        outer = {"type": "record", "name": "O", "fields": [{"name": "r", "type": kind}]}
        assert datums(parse(outer, "test"), rows, trouble).to_pylist() == expected
        assert [(row, why[0]) for row, why in trouble.of.items()] == ([] if kind != tree else [(1, "missing field")])
