from training.paths import EXAMPLE_CONFIG, REPOSITORY


def test_the_repository_is_the_folder_with_the_quickstart():
    assert (REPOSITORY / "quickstart.sh").is_file()
    assert EXAMPLE_CONFIG.is_file()
