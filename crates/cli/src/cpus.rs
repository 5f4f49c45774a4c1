//! How many CPUs this program really gets: the least of the affinity mask and the quotas of its
//! cgroup and all cgroups above it, versions 1 and 2. A part of a CPU counts as one.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// CPUs that this process may use; at least 1.
pub(crate) fn available() -> usize {
    count(Path::new("/"))
}

/// As [`available`], with the file system rooted at `root`.
fn count(root: &Path) -> usize {
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let affinity = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .and_then(list_length)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let quota = groups
        .lines()
        .filter_map(|line| group_quota(root, line))
        .min();
    quota.map_or(affinity, |quota| quota.min(affinity)).max(1)
}

/// The length of a list such as `0-3,8`.
fn list_length(list: &str) -> Option<usize> {
    let mut length = 0;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        length += last.checked_sub(first)? + 1;
    }
    Some(length)
}

/// The least quota of the cgroup in one line of `/proc/self/cgroup` and of those above it.
fn group_quota(root: &Path, line: &str) -> Option<usize> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    if controllers.is_empty() {
        return least(&root.join("sys/fs/cgroup"), path, quota_v2);
    }
    if !controllers.split(',').any(|name| name == "cpu") {
        return None;
    }
    let mounts =
        [controllers, "cpu", "cpu,cpuacct"].map(|name| root.join("sys/fs/cgroup").join(name));
    mounts
        .iter()
        .find(|mount| mount.is_dir())
        .and_then(|mount| least(mount, path, quota_v1))
}

/// The least quota on the way from `mount` down to `path`. In a container the path may be one of
/// the host's, which is not there; the mount itself then is the container's cgroup.
fn least(mount: &Path, path: &str, quota: fn(&Path) -> Option<usize>) -> Option<usize> {
    let mut folder = PathBuf::from(mount);
    let mut least = quota(&folder);
    for part in Path::new(path).components() {
        let Component::Normal(name) = part else {
            continue;
        };
        folder.push(name);
        least = [least, quota(&folder)].into_iter().flatten().min();
    }
    least
}

/// `cpu.max`: `QUOTA PERIOD`, or `max PERIOD`.
fn quota_v2(folder: &Path) -> Option<usize> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    whole(quota.parse().ok()?, period.parse().ok()?)
}

/// `cpu.cfs_quota_us`, negative when there is none, and `cpu.cfs_period_us`.
fn quota_v1(folder: &Path) -> Option<usize> {
    let read = |name| {
        fs::read_to_string(folder.join(name))
            .ok()?
            .trim()
            .parse::<i64>()
            .ok()
    };
    let quota = u64::try_from(read("cpu.cfs_quota_us")?).ok()?;
    whole(quota, u64::try_from(read("cpu.cfs_period_us")?).ok()?)
}

fn whole(quota: u64, period: u64) -> Option<usize> {
    if period == 0 {
        None
    } else {
        usize::try_from(quota.div_ceil(period)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Root {
            let root =
                std::env::temp_dir().join(format!("evener-cpus-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Root(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    const EIGHT: (&str, &str) = ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-6,9\n");

    #[test]
    fn affinity_alone() {
        let root = Root::new("affinity", &[EIGHT]);
        assert_eq!(count(&root.0), 8);
    }

    #[test]
    fn the_least_quota_of_version_2_counts() {
        let root = Root::new(
            "v2",
            &[
                EIGHT,
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/a/cpu.max", "250000 100000\n"),
                ("sys/fs/cgroup/a/b/cpu.max", "400000 100000\n"),
            ],
        );
        assert_eq!(count(&root.0), 3);
    }

    #[test]
    fn a_container_sees_its_own_cgroup_at_the_mount() {
        let root = Root::new(
            "v1",
            &[
                EIGHT,
                (
                    "proc/self/cgroup",
                    "4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n",
                ),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!(count(&root.0), 1);
        let root = Root::new(
            "v1-none",
            &[
                EIGHT,
                ("proc/self/cgroup", "4:cpu,cpuacct:/\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!(count(&root.0), 8);
    }

    #[test]
    fn this_machine_has_some() {
        assert!(available() >= 1);
    }
}
