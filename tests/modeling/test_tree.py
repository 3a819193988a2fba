"""The tree of a model: its counts, shares and collapsed layers."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, DistilBertConfig

from bertfit.modeling.tree import build_tree, count_parameters, estimate_memory


def make_model(config):
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


def make_small_bert(**changes):
    sizes = {
        "vocab_size": 30,
        "hidden_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 20,
    }
    return make_model(BertConfig(**(sizes | changes)))


@pytest.fixture(scope="module")
def bert_base():
    return make_model(BertConfig(vocab_size=28_996, num_labels=2))


@pytest.fixture(scope="module")
def tree(bert_base):
    return build_tree(bert_base)


def find(node, *names):
    for name in names:
        (node,) = [child for child in node.children if child.name == name]
    return node


def test_bert_base_has_the_published_number_of_parameters(bert_base, tree):
    assert count_parameters(bert_base) == 108_311_810
    assert tree.num_parameters == 108_311_810


def test_the_parts_of_bert_are_named(tree):
    assert tree.name == "bert"
    assert [child.name for child in tree.children] == ["bert", "dropout", "classifier"]
    parts = [child.name for child in find(tree, "bert").children]
    assert parts == ["embeddings", "encoder", "pooler"]


def test_a_layer_shows_attention_intermediate_and_output(tree):
    layer = find(tree, "bert", "encoder", "layer", "0–11")
    names = [child.name for child in layer.children]
    assert names == ["attention", "intermediate", "output"]
    attention = find(layer, "attention", "self")
    assert {"query", "key", "value"} <= {child.name for child in attention.children}


def test_equal_layers_are_folded_into_one(tree):
    layers = find(tree, "bert", "encoder", "layer").children
    assert [(layer.name, layer.repeats) for layer in layers] == [("0–11", 12)]
    assert layers[0].num_parameters == 7_087_872


def test_the_share_of_folded_layers_is_that_of_all(tree):
    layers = find(tree, "bert", "encoder", "layer", "0–11")
    assert layers.share == pytest.approx(12 * 7_087_872 / 108_311_810)


def test_shares_of_the_parts_sum_to_one(tree):
    assert tree.share == 1.0
    assert sum(child.share for child in tree.children) == pytest.approx(1.0)
    bert = find(tree, "bert")
    assert sum(child.share for child in bert.children) == pytest.approx(bert.share)


def test_a_module_shows_the_shapes_of_its_own_parameters(tree):
    classifier = find(tree, "classifier")
    assert classifier.shapes == {"weight": (2, 768), "bias": (2,)}
    assert (classifier.class_name, classifier.dtype) == ("Linear", "float32")
    assert find(tree, "bert").shapes == {}


def test_a_module_without_parameters_has_no_type(tree):
    dropout = find(tree, "dropout")
    assert (dropout.num_parameters, dropout.dtype, dropout.frozen) == (0, "", False)


def test_layers_that_differ_are_not_folded_together():
    model = make_small_bert()
    for parameter in model.bert.encoder.layer[0].parameters():
        parameter.requires_grad_(False)
    layers = find(build_tree(model), "bert", "encoder", "layer").children
    found = [(layer.name, layer.repeats, layer.frozen) for layer in layers]
    assert found == [("0", 1, True), ("1–2", 2, False)]


def test_a_module_with_one_trained_parameter_is_not_frozen():
    model = make_small_bert()
    model.classifier.weight.requires_grad_(False)
    assert not find(build_tree(model), "classifier").frozen


def test_mixed_types_are_all_named():
    model = make_small_bert()
    model.classifier.to(torch.bfloat16)
    tree = build_tree(model)
    assert tree.dtype == "bfloat16, float32"
    assert find(tree, "classifier").dtype == "bfloat16"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_depth_counts_levels_below_the_root(depth):
    def depth_of(node) -> int:
        return max((1 + depth_of(child) for child in node.children), default=0)

    assert depth_of(build_tree(make_small_bert(), depth=depth)) == depth


def test_depth_does_not_change_the_counts():
    model = make_small_bert()
    assert build_tree(model, depth=0).num_parameters == build_tree(model).num_parameters


def test_a_shared_parameter_is_counted_once():
    layer = torch.nn.Linear(3, 3)
    assert count_parameters(torch.nn.Sequential(layer, layer)) == 12


def test_the_tree_can_be_written_as_json(tree):
    value = json.loads(json.dumps(tree.to_json()))
    assert value["num_parameters"] == 108_311_810
    assert value["children"][2]["shapes"] == {"weight": [2, 768], "bias": [2]}


def test_weights_are_four_bytes_a_parameter(bert_base):
    memory = estimate_memory(bert_base, batch_size=1, num_tokens=8)
    assert memory.weights_gib == pytest.approx(4 * 108_311_810 / 2**30)


def test_training_takes_more_than_four_times_the_weights(bert_base):
    """Weights, gradients and two moments, and the activations on top."""
    memory = estimate_memory(bert_base, batch_size=16, num_tokens=128)
    assert memory.weights_gib < memory.inference_gib < memory.training_gib
    assert memory.training_gib > 4 * memory.weights_gib


@pytest.mark.parametrize("change", [{"batch_size": 32}, {"num_tokens": 256}])
def test_more_rows_or_tokens_take_more_memory(bert_base, change):
    base = {"batch_size": 16, "num_tokens": 128}
    small = estimate_memory(bert_base, **base)
    large = estimate_memory(bert_base, **(base | change))
    assert large.training_gib > small.training_gib
    assert math.isclose(large.weights_gib, small.weights_gib)


def test_distilbert_which_names_its_sizes_otherwise_is_estimated_too():
    model = make_model(DistilBertConfig(n_layers=2, dim=8, n_heads=2, hidden_dim=16))
    assert estimate_memory(model, batch_size=1, num_tokens=8).training_gib > 0
