"""Small files of Parquet and Arrow that stand for gigabytes: the run stops before these are in memory, and says at what."""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

import merganser as mg
from merganser.sources import columnar
from merganser.sources.arrow_sizes import grown
from merganser.sources.columnar import ColumnarFile
from tests.flows import balanced, rows

LONG = "x" * (1 << 20)
TIMES = 20_000

CHILD = """
import json, resource, sys
import merganser as mg

resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
found = {}
for path in sys.argv[1:]:
    flow = mg.Flow("f")
    flow.read(mg.source("s", mg.files(path), schema={"id": "BIGINT", "name": "VARCHAR DEFAULT NULL"})).materialize("v")
    try:
        mg.run([flow], path + ".duckdb")
    except mg.SourceError as error:
        found[path] = str(error)
most = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss is the parent's too
print(json.dumps([found, int(most.split()[1]) >> 10]))
"""


def _indexed() -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(TIMES, np.int32)), pa.array([LONG]))


def _lists(values: pa.Array, count: int = 1) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.linspace(0, len(values), count + 1).astype(np.int32)), values)


def _views() -> pa.Array:
    each = struct.pack("<i4sii", len(LONG), LONG[:4].encode(), 0, 0)
    return pa.Array.from_buffers(pa.string_view(), TIMES, [None, pa.py_buffer(each * TIMES), pa.py_buffer(LONG.encode())])


def _list_views() -> pa.Array:
    values = pa.array(np.zeros(1 << 20, np.int64))
    offsets, sizes = (pa.array(np.full(TIMES, n, np.int32)) for n in (0, len(values)))
    return pa.ListViewArray.from_arrays(offsets, sizes, values)


def _parquet(path: Path, name: pa.Array) -> None:
    table = pa.table({"id": pa.array(range(len(name))), "name": name})
    pyarrow.parquet.write_table(table, path, compression="zstd", store_schema=False)


def _arrow(path: Path, name: pa.Array) -> None:
    table = pa.table({"id": pa.array(range(len(name))), "name": name})
    with pyarrow.ipc.new_file(path, table.schema) as out:
        out.write_table(table)


def _compressed(path: Path, _: pa.Array) -> None:
    """A buffer that says it becomes 64 GiB."""
    table = pa.table({"id": pa.array([7] * 1000), "name": pa.nulls(1000, pa.string())})
    with pyarrow.ipc.new_file(path, table.schema, options=pyarrow.ipc.IpcWriteOptions(compression="zstd")) as out:
        out.write_table(table)
    said = path.read_bytes()
    assert said.count(struct.pack("<q", 8000)) == 1
    path.write_bytes(said.replace(struct.pack("<q", 8000), struct.pack("<q", 64 << 30)))


BOMBS: dict[str, tuple[Callable[[Path, pa.Array], None], Callable[[], pa.Array], str]] = {
    "text.parquet": (_parquet, _indexed, "its column 'name' becomes 20,97"),
    "texts.parquet": (_parquet, lambda: _lists(_indexed()), "its column 'name.list.element' becomes 20,97"),
    "compressed.arrow": (_compressed, lambda: None, "its column 'id' becomes 68,719,47"),
    "text.arrow": (_arrow, _indexed, "its column 'name' becomes 20,97"),
    "texts.arrow": (_arrow, lambda: _lists(_indexed()), "its column 'name' becomes 20,97"),
    "view.arrow": (_arrow, _views, "its column 'name' becomes 20,97"),
    "lists.arrow": (_arrow, _list_views, "its column 'name' becomes 167,77"),
}


def test_files_that_stand_for_more_than_the_memory(tmp_path: Path) -> None:
    """In a process that may have 3 GiB, of which it needs a tenth."""
    for name, (write, make, _) in BOMBS.items():
        write(tmp_path / name, make())
        assert (tmp_path / name).stat().st_size < 10 << 20
    paths = [str(tmp_path / name) for name in BOMBS]
    done = subprocess.run([sys.executable, "-c", CHILD, *paths], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found, megabytes = json.loads(done.stdout)
    for name, (_, _, why) in BOMBS.items():
        said = found[str(tmp_path / name)]
        assert said.startswith(f"{tmp_path / name}: row group 0 cannot be read ({why}"), said
        assert "if that is what is meant, write it with smaller row groups" in said
    assert megabytes < 500


MANY = """
import sys
import merganser as mg

flow = mg.Flow("f")
read = flow.read(mg.source("s", mg.files(sys.argv[1]), schema={"id": "BIGINT", "name": "VARCHAR"}))
read.derive(n="length(name)").select("id", "n").materialize("v")
mg.run([flow], sys.argv[1] + ".duckdb")
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def test_many_row_groups_that_become_large_are_many_epochs(tmp_path: Path) -> None:
    """Some kilobytes that become 1.3 GB, none of whose row groups is too large: they are not all in memory at once."""
    path = tmp_path / "a.parquet"
    name = pa.DictionaryArray.from_arrays(pa.array(np.zeros(40_000, np.int32)), pa.array(["x" * (32 << 10)]))
    table = pa.table({"id": pa.array(range(40_000)), "name": name})
    pyarrow.parquet.write_table(table, path, compression="zstd", store_schema=False, row_group_size=1000)
    assert path.stat().st_size < 1 << 20
    done = subprocess.run([sys.executable, "-c", MANY, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >> 10 < 700
    found = rows(tmp_path / "a.parquet.duckdb", "SELECT count(*), min(n), max(n) FROM v")
    assert found == [(40_000, 32 << 10, 32 << 10)]
    balanced(tmp_path / "a.parquet.duckdb")


def test_what_comes_before_is_kept_and_what_comes_after_is_read_once_the_file_is_gone(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet", pa.array(["a"] * 3))
    _parquet(tmp_path / "b.parquet", _indexed())
    flow = mg.Flow("f")
    events = mg.source("s", mg.files(tmp_path, partition_by="file"), schema={"id": "BIGINT", "name": "VARCHAR"})
    flow.read(events).materialize("v")
    with pytest.raises(mg.SourceError, match=r"b\.parquet: row group 0 cannot be read"):
        mg.run([flow], tmp_path / "s.duckdb")
    (tmp_path / "b.parquet").unlink()
    _parquet(tmp_path / "c.parquet", pa.array(["c"] * 2))
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT name, count(*) FROM v GROUP BY ALL ORDER BY ALL") == [("a", 3), ("c", 2)]


def _read(path: Path) -> pa.Table:
    file = ColumnarFile(str(path), "parquet" if path.suffix == ".parquet" else "arrow", None)
    pieces = []
    with contextlib.closing(file):
        while (piece := file.read(1 << 20, last=True)) is not None:
            pieces.append(piece.payload)
    return pa.concat_tables(pieces) if pieces else pa.table({})


@pytest.mark.parametrize(
    ("values", "options", "why"),
    [
        (_lists(pa.nulls(1 << 20, pa.int64())), {}, "its column 'c.list.element' becomes 12,58"),
        (_lists(pa.array(["x"] * (1 << 20))), {}, "its column 'c.list.element' becomes 8,38"),
        (pa.array(["x" * 5000] * 4000), {"column_encoding": "DELTA_BYTE_ARRAY", "use_dictionary": False}, "'c' becomes 20,"),
        (_lists(pa.array(["x" * 5000] * 4000)), {"column_encoding": "DELTA_BYTE_ARRAY", "use_dictionary": False},
         "what column 'c.list.element' becomes cannot be known: .*DELTA_BYTE_ARRAY; write it with another"),
        (pa.array([b"x" * 5000] * 4000, pa.binary(5000)), {}, "becomes 20,0"),
        (pa.StructArray.from_arrays([pa.array(["x" * 5000] * 4000)], ["s"]), {}, r"'c\.s' becomes 20,0"),
        (pa.array([[("k", "x" * 5000)]] * 4000, pa.map_(pa.string(), pa.string())), {}, r"'c\.key_value\.value' becomes 20,"),
    ],
    ids=["nulls", "texts", "prefixes", "lists of prefixes", "fixed", "struct", "map"],
)  # fmt: skip
def test_pages_of_every_kind(
    values: pa.Array, options: dict, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    if "column_encoding" in options:
        options = options | {"column_encoding": {("c.list.element" if pa.types.is_list(values.type) else "c"): "DELTA_BYTE_ARRAY"}}
    pyarrow.parquet.write_table(pa.table({"c": values}), path, compression="zstd", **options)
    assert path.stat().st_size < 20_000
    whole = _read(path)
    assert whole["c"].combine_chunks().equals(values)
    monkeypatch.setattr(columnar, "MAX_GROUP", 8 << 20)
    with pytest.raises(mg.SourceError, match=why):
        _read(path)


def test_a_long_text_beside_many_short_ones_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the texts of a dictionary come to is counted where the longest of them alone would be too much."""
    texts = pa.array(["x" * 5000] + [f"n{i % 100}" for i in range(10_000)])
    for name, values in (("text", texts), ("texts", _lists(texts, 500))):
        pyarrow.parquet.write_table(pa.table({"c": values}), tmp_path / f"{name}.parquet")
        monkeypatch.setattr(columnar, "MAX_GROUP", 1 << 20)
        assert _read(tmp_path / f"{name}.parquet")["c"].combine_chunks().equals(values)


def test_a_batch_of_more_nulls_than_can_be(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    with pyarrow.ipc.new_file(path, pa.schema([("c", pa.null())])) as out:
        out.write_batch(pa.record_batch([pa.nulls(1001)], ["c"]))
    path.write_bytes(path.read_bytes().replace(struct.pack("<q", 1001), struct.pack("<q", 1 << 40)))
    with pytest.raises(mg.SourceError, match="it becomes 4,398,046,511,104 bytes"):
        _read(path)


def test_a_damaged_page_is_no_surprise(tmp_path: Path) -> None:
    """Each byte of a small file with another value: it is read, or there is an error."""
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"c": ["a", "b", "a"]}), path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with contextlib.suppress(mg.SourceError):
            _read(path)


TEXTS = pa.array(["a", "bbb", None, "a"])


@pytest.mark.parametrize(
    ("shared", "plain"),
    [
        (TEXTS.dictionary_encode(), TEXTS),
        (TEXTS.cast(pa.string_view()), TEXTS),
        (pa.StructArray.from_arrays([TEXTS.dictionary_encode()], ["s"]), pa.StructArray.from_arrays([TEXTS], ["s"])),
        (_lists(TEXTS.dictionary_encode(), 2), _lists(TEXTS, 2)),
        (_lists(_lists(TEXTS.dictionary_encode(), 2), 1), _lists(_lists(TEXTS, 2), 1)),
        (pa.array([[1, 2], [3]], pa.list_view(pa.int64())), pa.array([[1, 2], [3]], pa.list_(pa.int64()))),
        (pa.MapArray.from_arrays([0, 2], pa.array(["k", "l"]), TEXTS.slice(0, 2).dictionary_encode()),
         pa.MapArray.from_arrays([0, 2], pa.array(["k", "l"]), pa.array(["a", "bbb"]))),
        (pa.FixedSizeListArray.from_arrays(TEXTS.dictionary_encode(), 2), pa.FixedSizeListArray.from_arrays(TEXTS, 2)),
    ],
)  # fmt: skip
def test_what_is_shared_is_counted_as_often_as_it_is_used(shared: pa.Array, plain: pa.Array) -> None:
    """But for the bits of nulls and one offset a list."""
    assert abs(grown(pa.chunked_array([shared])) - plain.nbytes) <= 16
