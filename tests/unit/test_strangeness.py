import numpy as np

from hilum.strangeness import Strangeness


def test_strangeness_grows_with_the_distance_and_is_a_share_of_known_images() -> None:
    means = np.zeros((2, 2048), np.float32)
    means[1] = 10
    known = Strangeness(means, np.ones(2048, np.float32), np.linspace(1, 3, 101, dtype=np.float32))
    pooled = np.array([[0.0], [np.sqrt(2)], [10 + np.sqrt(2)], [-np.sqrt(6)]]) * np.ones((1, 2048))
    np.testing.assert_allclose(known.of(pooled.astype(np.float32)), [0, 0.5, 0.5, 2], atol=1e-3)
