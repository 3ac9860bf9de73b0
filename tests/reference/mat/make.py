"""Writes imdb.mat of this folder with SciPy: three entries in the structure of IMDB-WIKI, with invented names."""

import pathlib

import numpy as np
import scipy.io

names = ["01/nm0000001_rm124825600_1899-5-10_1968.jpg", "02/nm0000002_rm1_1981-5-5_2009.jpg", "03/nm0000003_rm2_0-1-1_2009.jpg"]
cells = np.empty((1, 3), dtype=object)
cells[0, :] = names
imdb = {
    # Days of MATLAB: those of Python and 366 more.
    "dob": np.array([[693726, 723671, 47]], dtype=np.int32),
    "photo_taken": np.array([[1968, 2009, 2009]], dtype=np.uint16),
    "full_path": cells,
    "gender": np.array([[1.0, 0.0, np.nan]]),
    "face_score": np.array([[1.5, 4.1, 2.0]]),
    "second_face_score": np.full((1, 3), np.nan),
    "celeb_id": np.array([[1, 2, 3]], dtype=np.int32),
}
folder = pathlib.Path(__file__).parent
scipy.io.savemat(folder / "imdb.mat", {"imdb": imdb}, do_compression=True)
