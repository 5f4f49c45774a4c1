//! Which Python runs the workers.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The interpreter of the environment that this program belongs to: the one beside the program,
/// that of `$VIRTUAL_ENV`, or the first on the `PATH`.
pub(crate) fn find() -> Result<PathBuf, String> {
    let beside = env::current_exe().ok();
    let virtual_env = env::var_os("VIRTUAL_ENV");
    let path = env::var_os("PATH").unwrap_or_default();
    find_in(beside.as_deref().and_then(Path::parent), virtual_env.as_deref(), &path).ok_or_else(
        || {
            "there is no python3: neither beside this program, nor in $VIRTUAL_ENV, nor on the PATH.\n  \
             Install Python, or name it with --python."
                .to_owned()
        },
    )
}

fn find_in(beside: Option<&Path>, virtual_env: Option<&OsStr>, path: &OsStr) -> Option<PathBuf> {
    let virtual_env = virtual_env.filter(|folder| !folder.is_empty());
    let virtual_env = virtual_env.map(|folder| Path::new(folder).join("bin"));
    let folders = beside.map(Path::to_owned).into_iter().chain(virtual_env);
    folders
        .chain(env::split_paths(path))
        .flat_map(|folder| [folder.join("python3"), folder.join("python")])
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let mode = |metadata: std::fs::Metadata| metadata.permissions().mode();
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && mode(metadata) & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_nearest_python_is_taken() {
        let base = env::temp_dir().join(format!("evener-python-{}", std::process::id()));
        let make = |name: &str| {
            let file = base.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            file
        };
        let (beside, environment) = (make("a/python3"), make("v/bin/python"));
        let on_path = make("p/python3");
        let path = base.join("p").into_os_string();
        let virtual_env = base.join("v").into_os_string();
        let empty = base.join("empty");
        let found = find_in(Some(&base.join("a")), Some(&virtual_env), &path);
        assert_eq!(found, Some(beside));
        assert_eq!(
            find_in(Some(&empty), Some(&virtual_env), &path),
            Some(environment)
        );
        assert_eq!(find_in(None, Some(OsStr::new("")), &path), Some(on_path));
        assert_eq!(find_in(None, None, empty.as_os_str()), None);
        fs::remove_dir_all(&base).unwrap();
    }
}
