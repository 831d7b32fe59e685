"""The tiny SAM: what its decoder sees of prompts, beside SAM's own tokens."""

import pytest
import torch

from wsplf_cli.networks.tiny_sam import (
    AFFINITY,
    CONTEXT,
    FINE,
    DensePrompt,
    affinity,
    build_tiny,
    pixel_index,
    split_embedding,
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_tiny().eval()


def test_fine_features_come_out_of_the_embedding_as_they_went_in():
    fine = torch.rand(2, FINE, 64, 64)
    context = torch.rand(2, CONTEXT, 16, 16)
    embedding = torch.cat([context, torch.nn.functional.pixel_unshuffle(fine, 4)], dim=1)
    for part, expected in zip(split_embedding(embedding), (context, fine), strict=True):
        torch.testing.assert_close(part, expected)


def test_points_are_in_the_pixel_of_the_masks_that_holds_them():
    points = torch.tensor([[0.0, 0.0], [5.0, 3.9], [255.9, 255.9], [300.0, -4.0]])
    assert pixel_index(points).tolist() == [0, 1, 64 * 64 - 1, 63]


def test_pixels_whose_places_are_near_belong_together():
    places = torch.zeros(AFFINITY, 64 * 64)
    places[0, 2000:] = 3.0
    logits = affinity(places, torch.ones(64 * 64), torch.full((64 * 64,), 2.0), torch.tensor([10, 3000]))
    assert (logits[0].flatten()[:2000] > 0).all()
    assert (logits[0].flatten()[2000:] < 0).all()
    torch.testing.assert_close(logits[1].flatten()[:2000], logits[0].flatten()[2000:4000])


def test_prompt_is_told_in_pixels_of_the_window(network):
    # coordinates reach the encoder less half a pixel, which the package adds again
    points = torch.tensor([[[9.5, 19.5]]]), torch.ones(1, 1)
    boxes = torch.tensor([[9.5, 19.5, 29.5, 39.5]])
    _, prompt = network.prompt_encoder(points=points, boxes=boxes, masks=None)
    assert prompt.points.tolist() == [[[10, 20]]]
    assert prompt.box.tolist() == [[10, 20, 30, 40]]
    assert prompt.mask is None


def test_inside_of_a_box_and_nearness_of_a_point_are_maps(network):
    decoder = network.mask_decoder
    places = torch.zeros(AFFINITY, 64 * 64)
    places[:2] = 4 * decoder.xy.flatten(1)  # each pixel is the centre of its own gland
    given, inside, central = decoder._box_maps(torch.tensor([[64.0, 32.0, 192.0, 96.0]]), places, count=1)
    assert given.min() == 1
    assert inside[0, 0, 8:24, 16:48].min() > 0.5
    assert inside[0, 0, :7].max() < 0.5
    row, column = divmod(int(central[0, 0].argmax()), 64)
    assert abs(row - 15.5) <= 0.5
    assert abs(column - 31.5) <= 0.5
    near = decoder._nearness(torch.tensor([[[34.0, 62.0]]]))[0, 0]
    assert divmod(int(near.argmax()), 64) == (15, 8)


def test_tokens_that_are_no_prompts_come_with_cells_alone(network):
    embedding = torch.rand(1, 512, 16, 16)
    tokens, cells = torch.rand(2, 1, CONTEXT), torch.zeros(2, CONTEXT, 16, 16)
    positions = network.prompt_encoder.get_dense_pe()
    with torch.no_grad():
        masks, scores = network.mask_decoder.predict_masks(embedding, positions, tokens, cells)
        same, _ = network.mask_decoder.predict_masks(embedding, positions, tokens, DensePrompt(cells))
    assert masks.shape == (2, 4, 64, 64)
    assert scores.shape == (2, 4)
    torch.testing.assert_close(masks, same)
