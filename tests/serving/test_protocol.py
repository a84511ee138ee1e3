"""Requests are read, or refused with a one-line message that says what was found."""

import base64
import gc
import json
import random
import tracemalloc

import numpy
import pytest

from robustcls.serving.protocol import LENGTH, OUTPUTS, parse
from robustcls.serving.refused import Refused
from tests.helpers.serving import SIZE, binary_request, json_request, some_images


def body(**changes):
    """Return a JSON request of one image, with changes to its tensor."""
    whole = json_request(numpy.full((1, *SIZE), 0.5))
    whole["inputs"][0] |= changes
    return json.dumps(whole).encode()


def whole(**changes):
    return json.dumps(json_request(numpy.full((1, *SIZE), 0.5)) | changes).encode()


@pytest.mark.parametrize("datatype", ["FP32", "UINT8"])
@pytest.mark.parametrize("binary", [True, False])
def test_pixels_are_read(datatype, binary):
    images = some_images(2)
    sent = images if datatype == "UINT8" else images.astype(numpy.float32) / 255
    if binary:
        content, headers = binary_request(sent, datatype)
        request = parse(content, headers["Inference-Header-Content-Length"], SIZE)
    else:
        request = parse(json.dumps(json_request(sent, datatype)).encode(), None, SIZE)
    assert request.pixels.dtype == sent.dtype
    numpy.testing.assert_array_equal(request.pixels, sent)
    assert [(one.name, one.binary) for one in request.outputs] == [(name, binary) for name in OUTPUTS]


def test_nested_data_are_read_like_flat():
    images = some_images(2).astype(numpy.float32) / 255
    nested = json_request(images)
    nested["inputs"][0]["data"] = images.tolist()
    numpy.testing.assert_array_equal(parse(json.dumps(nested).encode(), None, SIZE).pixels, images)


@pytest.mark.parametrize("binary", [True, False])
def test_encoded_images_are_read(binary):
    files = [b"one", b"", b"three"]
    tensor = {"name": "images", "datatype": "BYTES", "shape": [3]}
    if binary:
        raw = b"".join(len(one).to_bytes(4, "little") + one for one in files)
        head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
        request = parse(head + raw, str(len(head)), SIZE)
    else:
        data = [base64.b64encode(one).decode() for one in files]
        request = parse(json.dumps({"inputs": [tensor | {"data": data}]}).encode(), None, SIZE)
    assert request.encoded == files
    assert request.count == 3


def test_an_output_is_binary_where_it_says_so_itself():
    outputs = [{"name": "label"}, {"name": "logits", "parameters": {"binary_data": False}}]
    request = parse(whole(outputs=outputs, parameters={"binary_data_output": True}), None, SIZE)
    assert [(one.name, one.binary) for one in request.outputs] == [("label", True), ("logits", False)]


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (b"", "protocol", "not JSON"),
        (b"\xff\xfe{", "protocol", "not JSON"),
        (b"[]", "protocol", "not a JSON object"),
        (b"[" * 100_000, "protocol", "not JSON"),
        (b"{}", "protocol", "list of one tensor"),
        (b'{"inputs": {}}', "protocol", "list of one tensor"),
        (whole(id=7), "protocol", "`id`"),
        (whole(parameters=[]), "protocol", "`parameters`"),
        (whole(outputs="label"), "protocol", "`outputs`"),
        (whole(outputs=[{"name": "boxes"}]), "protocol", "'boxes' is unknown"),
        (whole(outputs=[{"name": ["label"]}]), "protocol", "is unknown"),
        (whole(outputs=[{"name": "label"}] * 4), "protocol", "4 outputs"),
        (whole(outputs=[{"name": "label", "parameters": {"classification": 2}}]), "protocol", "classification"),
        (body(name="x"), "protocol", "'x' is unknown"),
        (body(datatype="FP64"), "protocol", "'FP64'"),
        (body(datatype=[]), "protocol", "datatype"),
        (body(data=None), "protocol", "neither a list"),
        (body(data="0.5"), "protocol", "neither a list"),
        (body(parameters={"binary_data_size": 4}), "protocol", "without the header"),
        (body(parameters={"shared_memory_region": "a"}), "protocol", "shared memory"),
        (body(shape=[1, 12, 12, 3]), "shape", r"the model takes \[N, 3, 12, 12\]"),
        (body(shape=[0, *SIZE]), "shape", "no image"),
        (body(shape=[-1, *SIZE]), "shape", "not a list of sizes"),
        (body(shape=[True, *SIZE]), "shape", "not a list of sizes"),
        (body(shape=[1.0, *SIZE]), "shape", "not a list of sizes"),
        (body(shape="1"), "shape", "not a list of sizes"),
        (body(shape=[10**400, *SIZE]), "shape", "more than 1000000000000000"),
        (body(shape=[2**62, *SIZE]), "shape", "has 432 values"),
        (body(data=[0.5] * 431), "shape", "has 431 values"),
        (body(data=[[0.5], [0.5, 0.5]]), "shape", "has 2 lists, its shape says 1"),
        (body(data=[[[0.5], [0.5, 0.5]]]), "shape", "is not nested like its shape"),
        (body(data=["0.5"] * 432), "values", "that are not numbers"),
        (body(data=[True] * 432), "values", "that are not numbers"),
        (body(data=[None] * 432), "values", "that are not numbers"),
        (body(data=[10**30] * 432), "values", "that are not numbers"),
        (body(data=[255.0] * 432), "values", "values from 255 to 255"),
        (body(data=[-0.001] * 432), "values", "values from -0.001"),
        (body(data=[1e39] * 432), "values", "432 values that are not finite"),
        (body(data=[0.5] * 431 + [float("nan")]), "values", "1 values that are not finite"),
        (body(datatype="UINT8", data=[256] * 432), "values", "values from 256 to 256"),
        (body(datatype="UINT8", data=[-1] * 432), "values", "values from -1"),
        (body(datatype="UINT8", data=[0.5] * 432), "values", "whole numbers"),
        (body(datatype="BYTES"), "shape", r"encoded images have the shape \[N\]"),
        (body(datatype="BYTES", shape=[1], data=["***"]), "protocol", "base64"),
        (body(datatype="BYTES", shape=[1], data=[7]), "protocol", "base64"),
        (body(datatype="BYTES", shape=[2], data=["YQ=="]), "shape", "has 1 files"),
        (whole() + b"more", "protocol", "not JSON"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(content, reason, words):
    with pytest.raises(Refused, match=words) as caught:
        parse(content, None, SIZE)
    assert caught.value.reason == reason
    assert caught.value.status == 400
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("true", [True, False])
def test_true_and_false_among_numbers_are_no_pixels(true):
    for datatype, number in (("FP32", 0.5), ("UINT8", 1)):
        with pytest.raises(Refused, match="that are not numbers"):
            parse(body(datatype=datatype, data=[number] * 431 + [true]), None, SIZE)


def test_parameters_that_are_null_are_absent():
    request = whole(parameters=None, outputs=[{"name": "label", "parameters": None}])
    assert [(one.name, one.binary) for one in parse(request, None, SIZE).outputs] == [("label", False)]
    assert parse(body(parameters=None), None, SIZE).count == 1


def data_of(text, datatype="FP32", shape=(1, *SIZE)):
    """Return a request with this text as its `data`."""
    head = json.dumps({"name": "images", "datatype": datatype, "shape": list(shape)})
    return b'{"inputs": [' + head[:-1].encode() + b', "data": ' + text + b"}]}"


MANY = 300_000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (data_of(b"[" + b"0," * MANY + b"0]"), f"has {MANY + 1} values"),
        (data_of(b"[" + b"[]," * MANY + b"[]]"), f"has {MANY + 1} lists"),
        (data_of(b"[" + b"[0]," * MANY + b"[0]]"), f"has {MANY + 1} lists"),
        (data_of(b"[[" + b"0," * MANY + b"0]]"), "is not nested like its shape"),
        (data_of(b"[" + b'"",' * MANY + b'""]', "BYTES", [1]), f"has {MANY + 1} files"),
        (data_of(b"[]", "BYTES", [MANY]), "at most 65536"),
    ],
    ids=["flat", "empty lists", "lists of one", "one list", "files", "more files than are taken"],
)
def test_lengths_are_compared_before_a_value_is_looked_at(content, words, monkeypatch):
    """A huge request takes no more memory than its JSON, because no array is made and no file is decoded."""

    def costly(*_, **__):
        raise AssertionError("an array, or base64, of what the shape does not allow")

    monkeypatch.setattr("robustcls.serving.json_data.array", costly)
    monkeypatch.setattr("robustcls.serving.protocol.base64.b64decode", costly)
    with pytest.raises(Refused, match=words):
        parse(content, None, SIZE)


def test_a_text_among_values_takes_no_more_memory_than_itself():
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="that are not numbers"):
            parse(data_of(b'["' + b"x" * MANY + b'"' + b', ""' * 431 + b"]"), None, SIZE)
        assert tracemalloc.get_traced_memory()[1] < 10 * MANY  # numpy would take 4 * 432 * MANY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_afterwards_as_before(enabled):
    try:
        (gc.enable if enabled else gc.disable)()
        assert parse(body(), None, SIZE).count == 1
        with pytest.raises(Refused):
            parse(b"{", None, SIZE)
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_files_that_would_become_too_many_pixels_are_refused():
    content = data_of(b'["YQ==", "YQ=="]', "BYTES", [2])
    assert parse(content, None, (3, 1 << 13, 1 << 12)).count == 2
    with pytest.raises(Refused, match="has 2 files: at most 1 are allowed"):
        parse(content, None, (3, 1 << 13, 1 << 13))


def test_a_binary_tensor_of_many_empty_files_is_read_no_further_than_its_shape():
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 4 * MANY}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(Refused, match="has more files, its shape says 1"):
        parse(head + bytes(4 * MANY), str(len(head)), SIZE)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_data_are_nested_as_deeply_as_is_liked(depth):
    images = some_images(2).astype(numpy.float32) / 255
    nested = images.reshape(*images.shape[: depth - 1], -1).tolist()
    asked = json_request(images)
    asked["inputs"][0]["data"] = nested
    numpy.testing.assert_array_equal(parse(json.dumps(asked).encode(), None, SIZE).pixels, images)


@pytest.mark.parametrize("nested", [(2, 12, 12, 3), (12, 2, 3, 12), (24, 36), (2, 36, 12)], ids=str)
def test_data_that_are_nested_otherwise_are_refused(nested):
    images = some_images(2).astype(numpy.float32) / 255
    asked = json_request(images)
    asked["inputs"][0]["data"] = images.reshape(nested).tolist()
    with pytest.raises(Refused, match="its shape"):
        parse(json.dumps(asked).encode(), None, SIZE)


@pytest.mark.parametrize("length", ["", "-1", "1e3", "99999999", "9" * 5000, "²"])
def test_a_length_that_is_none_is_refused(length):
    content, _ = binary_request(some_images(1))
    with pytest.raises(Refused, match=LENGTH):
        parse(content, length, SIZE)


@pytest.mark.parametrize(
    ("cut", "words"), [(-1, "431 bytes follow"), (-432, "0 bytes follow")]
)  # the tensor has 432 bytes
def test_a_raw_tensor_that_is_too_short_is_refused(cut, words):
    content, headers = binary_request(some_images(1))
    with pytest.raises(Refused, match=words):
        parse(content[:cut], headers["Inference-Header-Content-Length"], SIZE)


def test_a_file_that_is_longer_than_what_follows_is_refused():
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 7}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(Refused, match="should have 4294967295 bytes, but 3 follow"):
        parse(head + b"\xff\xff\xff\xffabc", str(len(head)), SIZE)


def test_ten_thousand_mutated_bodies_are_read_or_refused():
    draw = random.Random(0)
    images = some_images(1)
    bodies = [
        (json.dumps(json_request(images / 255)).encode(), None),
        (body(datatype="BYTES", shape=[1], data=["YQ=="]), None),
    ]
    raw, headers = binary_request(images)
    bodies.append((raw, headers["Inference-Header-Content-Length"]))
    outcomes, lines = {"read": 0, "refused": 0}, 0
    for _ in range(10_000):
        content, length = draw.choice(bodies)
        changed = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(changed))
            action = draw.randrange(4)
            if action == 0:
                changed[at] = draw.randrange(256)
            elif action == 1:
                del changed[at : at + draw.randint(1, 40)]
            elif action == 2:
                changed[at:at] = draw.choice([b"[", b"}", b"null", b"-1", b"1e999", b"9" * 40, b'"', b"\x00"])
            else:
                changed[at:at] = changed[at : at + draw.randint(1, 40)]
            if not changed:
                break
        try:
            parse(bytes(changed), draw.choice([length, length, str(draw.randrange(3000))]), SIZE)
            outcomes["read"] += 1
        except Refused as refused:
            outcomes["refused"] += 1
            lines += refused.message.count("\n")
    assert not lines
    assert min(outcomes.values()) > 100  # both outcomes occur
