import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import coo_array, csgraph

from contrail_train.contrails.pixel_graph import indices_yx, parts_of, path_lengths, walk


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_paths_are_as_long_as_those_of_a_sparse_graph(share: float) -> None:
    pixels = np.argwhere(np.random.default_rng(0).random((30, 40)) < share)
    distance = np.hypot(*(pixels[:, np.newaxis] - pixels).transpose(2, 0, 1))
    first, second = np.nonzero(distance < 2)
    graph = coo_array((distance[first, second], (first, second)), distance.shape)
    for start in (0, len(pixels) // 2):
        lengths = path_lengths(pixels, indices_yx(pixels), start)
        np.testing.assert_array_equal(lengths, csgraph.dijkstra(graph, indices=start))


def test_parts_are_the_connected_regions_of_each_class() -> None:
    classes_yx = np.random.default_rng(0).integers(0, 3, (30, 40))
    pixels = np.argwhere(classes_yx >= 0)
    parts = parts_of(pixels, indices_yx(pixels), classes_yx.ravel())
    labels = [ndimage.label(classes_yx == number, np.ones((3, 3)))[0].ravel() for number in range(3)]
    pairs = np.unique(np.stack([parts, *labels]), axis=1)
    assert pairs.shape[1] == len(np.unique(parts)) == parts.max() + 1 == sum(each.max() for each in labels)


def test_a_walk_goes_on_from_where_an_earlier_one_started() -> None:
    pixels = np.array([[0, 0], [0, 1], [1, 2], [2, 2], [3, 1]])
    is_visited = np.zeros(len(pixels), bool)
    ways = [walk(pixels, indices_yx(pixels), 2, is_visited).tolist() for _ in range(2)]
    assert ways == [[2, 1, 0], [2, 3, 4]]
    assert is_visited.all()
