import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import EvaluationConfig, evaluate, load_evaluation
from infill.pipeline.evaluation.metric_networks import load_networks
from infill.pipeline.evaluation.network_config import NetworkConfig
from infill.pipeline.evaluation.scorer import Scorer
from infill.pipeline.metrics.distribution_metrics import frechet_distance
from infill.pipeline.metrics.inception import Inception
from infill.pipeline.metrics.lpips import LPIPS
from infill.pipeline.metrics.places365 import PlacesClassifier


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> NetworkConfig:
    """Weights that nobody trained, in files of the public ones' form."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(5)
    inception = {
        name: value
        for name, value in Inception().state_dict().items()
        if not name.endswith("num_batches_tracked")  # Absent from the public file.
    }
    lpips = LPIPS()
    backbone = {f"features.{name}": value for name, value in lpips.features.state_dict().items()}
    linear = {
        f"lin{n}.model.1.weight": torch.rand(1, len(weight), 1, 1)
        for n, weight in enumerate(lpips.weights)
    }
    for name, tensors in (("inception", inception), ("alexnet", backbone), ("linear", linear)):
        torch.save(tensors, folder / f"{name}.pth")
    return NetworkConfig(
        inception=str(folder / "inception.pth"),
        inception_sha256=storage.sha256((folder / "inception.pth").read_bytes()),
        lpips_backbone=str(folder / "alexnet.pth"),
        lpips_linear=str(folder / "linear.pth"),
    )


def save_as_published(network: PlacesClassifier, name: str, file: Path) -> None:
    """Write a classifier as Places365's authors did: DataParallel's names, no batch counters."""
    tensors = {
        f"module.{key}": value
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save({"epoch": 90, "arch": name, "best_prec1": 54.0, "state_dict": tensors}, file)


@pytest.fixture
def config(checkpoint: str, test_set: str, tmp_path) -> EvaluationConfig:
    return EvaluationConfig(
        checkpoint=checkpoint,
        shards=test_set,
        out=str(tmp_path / "out"),
        buckets=((0.2, 0.3),),
        baselines=("mean-fill",),
        num_images=3,
        num_actors=0,
    )


def test_without_weights_the_report_says_so_and_no_number_stands_there(config):
    evaluation = evaluate(config, report=str)
    assert evaluation.set_scores == {}
    assert "lpips" not in evaluation.summary
    sentence = "IS by Places365, P-IDS, U-IDS, LPIPS: not computed: weights not given."
    assert sentence in Path(evaluation.files["report"]).read_text()
    assert "FID: not computed: weights not given." in Path(evaluation.files["table"]).read_text()


def test_with_weights_sets_are_measured_and_lpips_is_a_column(config, weights):
    config = replace(config, networks=weights)
    evaluation = evaluate(config, report=str)
    assert load_evaluation(evaluation.out) == evaluation
    fid = evaluation.set_scores["mean-fill"]["all"]["fid"]
    assert fid.n == 3
    assert evaluation.set_scores["spn"]["0.2-0.3"]["kid"].n == 3
    assert evaluation.scores["spn"]["all"]["lpips"].mean > 0
    page = Path(evaluation.files["report"]).read_text()
    assert re.findall(r">([^<>]*not computed[^<>]*)<", page) == [
        "IS by Places365: not computed: weights not given."
    ]
    assert f"<td>{fid.value:.2f}</td>" in page

    scorer = Scorer(config, 48, config.out)
    filled = scorer.fill(range(3))
    inception = scorer.networks.of_sets["inception"]
    pasted = torch.from_numpy(scorer._composites(filled)["mean-fill"])
    with torch.inference_mode():
        ours = inception(pasted).double().numpy()
        theirs = inception(torch.from_numpy(filled.images)).double().numpy()
    assert fid.value == pytest.approx(frechet_distance(ours, theirs), rel=1e-3)


def test_images_that_meet_several_masks_count_once_among_the_originals(config, weights):
    config = replace(config, networks=replace(weights, lpips_backbone="", lpips_linear=""))
    scorer = Scorer(replace(config, pairs_per_image=2), 48, config.out)
    tables = scorer._features(scorer.fill(range(4)), "inception")
    counts = {table["method"][0].as_py(): len(table) for table in tables}
    assert counts == {"": 2, "spn": 4, "mean-fill": 4}
    assert np.array(tables[0]["features"].to_pylist()).shape == (2, 2048)


def test_pennets_inception_score_is_by_the_public_classifier_of_places365(config, tmp_path):
    torch.manual_seed(2)
    classifier = PlacesClassifier("resnet18")
    classifier.fc.weight.mul_(100)  # classes that differ from image to image
    file = tmp_path / "resnet18_places365.pth.tar"
    save_as_published(classifier, "resnet18", file)
    networks = NetworkConfig(
        places365=str(file), places365_sha256=storage.sha256(file.read_bytes())
    )
    evaluation = evaluate(replace(config, networks=networks), report=str)
    found = evaluation.set_scores["mean-fill"]["all"]
    assert set(found) == {"places_score"}
    assert found["places_score"].n == 3

    scorer = Scorer(config, 48, config.out)
    pasted = torch.from_numpy(scorer._composites(scorer.fill(range(3)))["mean-fill"])
    with torch.inference_mode():
        features = classifier(pasted).double().numpy()
    logits = (
        features @ classifier.fc.weight.double().numpy().T + classifier.fc.bias.double().numpy()
    )
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    given_image = exponents / exponents.sum(axis=1, keepdims=True)
    divergences = (given_image * np.log(given_image / given_image.mean(axis=0))).sum(axis=1)
    assert divergences.mean() > 0.01
    assert found["places_score"].value == pytest.approx(np.exp(divergences.mean()), rel=1e-3)
    page = Path(evaluation.files["report"]).read_text()
    assert f"<td>{found['places_score'].value:.2f}</td>" in page
    assert "FID, KID x 1000, inception score, P-IDS, U-IDS, LPIPS: not computed" in page


def test_file_of_another_checksum_is_refused_before_anything_is_scored(config, weights):
    wrong = replace(weights, inception_sha256="0" * 64)
    with pytest.raises(UserError, match="it is not used"):
        evaluate(replace(config, networks=wrong), report=str)


def test_file_of_another_network_is_named(weights, tmp_path):
    swapped = NetworkConfig(inception=weights.lpips_backbone)
    with pytest.raises(UserError, match=r"alexnet\.pth is not the Inception of FID"):
        load_networks(swapped, "cpu")
    swapped = NetworkConfig(lpips_backbone=weights.lpips_linear, lpips_linear=weights.lpips_linear)
    with pytest.raises(UserError, match=r"are not AlexNet and LPIPS's weights.*features\.0"):
        load_networks(swapped, "cpu")
    swapped = NetworkConfig(places365=weights.inception)
    with pytest.raises(UserError, match=r"inception\.pth is not the ResNet-18 or ResNet-50 of Pl"):
        load_networks(swapped, "cpu")
    text = tmp_path / "notes.txt"
    text.write_text("no tensors")
    with pytest.raises(UserError, match=r"notes\.txt is a text that begins with 'no tensors'"):
        load_networks(NetworkConfig(inception=str(text)), "cpu")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"lpips_linear": "alex.pth"}, "LPIPS needs two files"),
        ({"inception": "https://example.com/i.pth"}, "is a download: give its SHA-256"),
    ],
)
def test_half_of_a_network_and_unchecked_downloads_are_refused(values, complaint):
    with pytest.raises(UserError, match=complaint):
        NetworkConfig(**values)
