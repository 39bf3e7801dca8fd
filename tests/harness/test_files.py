"""Which disk a path lies on."""

from pathlib import Path

import pytest

from harness.files import network_disk


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/home/u/var", "nfs4"), ("/home", "nfs4"), ("/homes/u", ""), ("/home/u/scratch disk/x", "lustre"),
     ("/home/local/x", ""), ("/data/x", "beegfs"), ("/", "")],
)  # fmt: skip
def test_a_path_lies_on_the_disk_of_its_longest_mount_point(path, kind, tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2\n"
        "31 30 0:41 / /home/u/scratch\\040disk rw - lustre 10.0.0.1@tcp:/scratch rw\n"
        "32 30 8:2 / /home/local rw - xfs /dev/sdb1 rw\n"
        "33 22 8:3 / /data rw - ext4 /dev/sdc1 rw\n"
        "34 22 0:42 / /data rw master:2 - beegfs beegfs_nodev rw\n"
    )
    assert network_disk(Path(path), mounts) == kind


def test_without_a_mount_table_no_disk_is_known(tmp_path):
    assert network_disk(tmp_path, tmp_path / "absent") == ""
    assert network_disk(tmp_path) == ""
