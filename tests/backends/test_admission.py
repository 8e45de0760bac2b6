"""Graphs that are more than arithmetic are refused, however deep or odd they hide it; what edgeoe writes is not."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeoe.backends.admission import concerns, require_admitted
from edgeoe.backends.onnx_file import FIELDS, read_onnx
from edgeoe.errors import BackendError
from edgeoe.files import file_sha256
from edgeoe.vouching import vouch

LEAVES = {"op_type", "domain", "name", "key", "value", "data_location"}


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_field_numbers_are_those_of_onnx(kind: str) -> None:
    fields = getattr(onnx, kind).DESCRIPTOR.fields_by_number
    for number, meaning in FIELDS[kind].items():
        message = fields[number].message_type
        assert meaning == (message.name if message else fields[number].name)


def test_every_way_to_a_node_or_to_a_file_is_followed() -> None:
    """No message of onnx.proto that may contain nodes or external data is left out."""

    def leads_there(kind: str, above: frozenset[str] = frozenset()) -> bool:
        if kind in ("NodeProto", "TensorProto"):
            return True
        fields = getattr(onnx, kind).DESCRIPTOR.fields
        inner = {field.message_type.name for field in fields if field.message_type} - {kind} - above
        return any(leads_there(each, above | {kind}) for each in inner if hasattr(onnx, each))

    for kind, followed in FIELDS.items():
        for field in getattr(onnx, kind).DESCRIPTOR.fields:
            if field.message_type and hasattr(onnx, field.message_type.name) and leads_there(field.message_type.name):
                assert field.number in followed, (kind, field.name)


def plain(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"]), *nodes],
        "g",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1000], [0.0] * 1000)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


FOREIGN = helper.make_node("Run", ["x"], ["z"], domain="com.example")
COMPILED = helper.make_node("EPContext", ["x"], ["z"], domain="com.microsoft")


def in_branch(node: onnx.NodeProto) -> onnx.ModelProto:
    inner = helper.make_graph([node], "inner", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])])
    outer = helper.make_graph([helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)], "o", [], [])
    return plain(helper.make_node("If", ["c"], ["z"], then_branch=outer, else_branch=inner))


def in_function(node: onnx.NodeProto) -> onnx.ModelProto:
    model = plain(helper.make_node("F", ["x"], ["z"], domain="local"))
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("local", "F", ["x"], ["z"], [node], opsets))
    return model


def in_training(node: onnx.NodeProto) -> onnx.ModelProto:
    model = plain()
    model.training_info.add().algorithm.node.append(node)
    return model


def external(location: str) -> onnx.ModelProto:
    model = plain()
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model


def in_attribute(location: str) -> onnx.ModelProto:
    return plain(helper.make_node("Constant", [], ["z"], value=external(location).graph.initializer[0]))


PROGRAMS: dict[str, tuple[onnx.ModelProto, str]] = {
    "foreign": (plain(FOREIGN), "its operator Run is of the foreign domain 'com.example'"),
    "compiled": (plain(COMPILED), "its operator EPContext is a compiled program of a device"),
    "branch": (in_branch(FOREIGN), "Run is of the foreign domain"),
    "function": (in_function(COMPILED), "EPContext is a compiled program"),
    "training": (in_training(FOREIGN), "Run is of the foreign domain"),
    "plugin": (plain(helper.make_node("P", ["x"], ["z"], domain="trt.plugins")), "foreign domain 'trt.plugins'"),
    "above": (external("../w.bin"), "it reads weights from '../w.bin', outside of its folder"),
    "absolute": (external("/etc/passwd"), "it reads weights from '/etc/passwd', outside of its folder"),
    "null": (external("w\0.bin"), "outside of its folder"),
    "attribute": (in_attribute("../../w.bin"), "outside of its folder"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_more_than_arithmetic_needs_somebody_to_vouch(name: str, tmp_path: Path, another_machine: Path) -> None:
    model, reason = PROGRAMS[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BackendError) as raised:
        require_admitted(path)
    assert reason in str(raised.value)
    assert str(raised.value).endswith(f"edgeoe trust {path}")
    vouch("artifact", file_sha256(path), what=path)
    require_admitted(path)
    model.producer_name = "another"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BackendError):
        require_admitted(path)


@pytest.mark.parametrize(
    "model",
    [
        plain(),
        plain(helper.make_node("FusedConv", ["x"], ["z"], domain="com.microsoft")),
        plain(helper.make_node("Relu", ["x"], ["z"], domain="ai.onnx")),
        in_function(helper.make_node("Relu", ["x"], ["z"])),
        external("w.bin"),
        external("weights/w.bin"),
    ],
)
def test_arithmetic_on_what_lies_in_the_folder_is_admitted(model: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    require_admitted(tmp_path / "model.onnx")


def test_a_link_to_weights_elsewhere_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.bin").write_text("")
    (tmp_path / "in/w.bin").symlink_to(tmp_path / "secret.bin")
    (tmp_path / "in/model.onnx").write_bytes(external("w.bin").SerializeToString())
    with pytest.raises(BackendError, match="outside of its folder"):
        require_admitted(tmp_path / "in/model.onnx")


def appended(model: onnx.ModelProto, tail: bytes) -> bytes:
    return model.SerializeToString() + tail


NODE = FOREIGN.SerializeToString()
GRAPH = b"\x0a" + bytes([len(NODE)]) + NODE


@pytest.mark.parametrize(
    "tail",
    [
        b"\x3a" + bytes([len(GRAPH)]) + GRAPH,  # a second graph, which protobuf merges into the first
        b"\xba\x80\x80\x80\x00" + bytes([len(GRAPH)]) + GRAPH,  # its tag with more bytes than it needs
        b"\xba\x80\x80\x80\x10" + bytes([len(GRAPH)]) + GRAPH,  # a tag of 33 bits, of which protobuf may drop the last
    ],
)
def test_bytes_that_protobuf_reads_in_its_own_way_hide_nothing(tail: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(appended(plain(), tail))
    with pytest.raises(BackendError, match=r"foreign domain|not in protobuf's format"):
        require_admitted(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "content", [b"", b"no graph", b"\x3a", b"\x3b\x00", b"\x08\x01", bytes(range(200, 256)) + b"\xff" * 12]
)
def test_what_is_no_onnx_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BackendError, match=r"model\.onnx: .*can't load it: no ONNX file"):
        require_admitted(tmp_path / "model.onnx")
    with pytest.raises(BackendError, match=r"none\.onnx: can't load it: No such file"):
        require_admitted(tmp_path / "none.onnx")


@settings(max_examples=300)
@given(st.data())
def test_no_mutation_ends_in_anything_but_an_answer(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(in_function(COMPILED).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("mutated") / "model.onnx"
    path.write_bytes(content)
    try:
        concerns(path)
    except BackendError as reason:
        assert "no ONNX file" in str(reason)  # noqa: PT017 - both ends are fine


def test_graphs_nested_beyond_what_protobuf_reads_are_refused(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        size = len(content)
        return bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + content

    graph = GRAPH
    for _ in range(40):
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "model.onnx").write_bytes(field(7, graph))
    with pytest.raises(BackendError, match="nested more than 100 deep"):
        require_admitted(tmp_path / "model.onnx")


def test_graphs_of_edgeoe_are_arithmetic(exported: Path) -> None:
    assert concerns(exported / "student.onnx") == ()
    content = read_onnx(exported / "student.onnx")
    assert {"edgeoe.classes", "edgeoe.preprocess"} <= content.metadata.keys()
    model = onnx.load(exported / "student.onnx")
    assert content.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert content.operators >= {(node.domain, node.op_type) for node in model.graph.node}
