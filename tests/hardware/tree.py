"""A folder that looks like the root of some Linux machine, as far as the code reads it."""

from pathlib import Path

MOUNTS = {
    2: "31 23 0:28 {shown} /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate",
    1: "35 31 0:32 {shown} /sys/fs/cgroup/{name} rw,relatime - cgroup cgroup rw,{name}",
}


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write the files over those of a plain machine: two processors, 8 GiB, 6 of them available."""
    plain = {
        "proc/meminfo": "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 6291456 kB\n",
        "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-1\nMems_allowed_list:\t0\n",
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": MOUNTS[2].format(shown="/") + "\n",
        "proc/cpuinfo": "processor : 0\nvendor_id : AuthenticAMD\nmodel name : EPYC\nflags : avx\n",
        "sys/devices/system/cpu/online": "0-1\n",
    }
    for name, content in {**plain, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root
