//! The `config.toml` of an instance: everything below its own folder, nothing that reaches out of it.

use std::fmt::Write as _;
use std::path::Path;

use super::{Line, Options};

/// Plugins that no scenario needs and that would touch the machine or slow the start.
const OFF: &[&str] = &[
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.differ.v1.erofs",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
];
const NRI: &str = "io.containerd.nri.v1.nri";

/// Writes the file's text. CNI gets an empty folder: containerd logs one complaint and pulls all the same.
pub(super) fn render(line: Line, dir: &Path, options: &Options) -> String {
    let path = |sub: &str| quoted(&dir.join(sub).display().to_string());
    let mut off: Vec<String> = OFF.iter().map(|plugin| quoted(plugin)).collect();
    if !options.nri {
        off.push(quoted(NRI));
    }
    let version = match line {
        Line::V1_7 => 2,
        Line::V2 => 3,
    };
    let mut text = format!(
        "version = {version}\nroot = {root}\nstate = {state}\ndisabled_plugins = [{off}]\n\
         [grpc]\naddress = {socket}\n[ttrpc]\naddress = {ttrpc}\n[debug]\nlevel = {level}\n",
        root = path(super::ROOT),
        state = path("state"),
        off = off.join(", "),
        socket = path("c.sock"),
        ttrpc = path("t.sock"),
        level = quoted(&options.log_level),
    );
    let mut add = |section: &str, lines: &[String]| {
        let _ = writeln!(text, "[{section}]\n{}", lines.join("\n"));
    };
    let limit: Vec<String> = options
        .max_concurrent_downloads
        .iter()
        .map(|limit| format!("max_concurrent_downloads = {limit}"))
        .collect();
    let timeout: Vec<String> = options
        .image_pull_progress_timeout
        .iter()
        .map(|timeout| format!("image_pull_progress_timeout = {}", quoted(timeout)))
        .collect();
    let runtime = [
        "restrict_oom_score_adj = true".to_owned(),
        "disable_apparmor = true".to_owned(),
    ];
    let snapshotter = format!("snapshotter = {}", quoted(&options.snapshotter));
    let certs = format!("config_path = {}", path("certs.d"));
    match line {
        Line::V1_7 => {
            let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
            add(cri, &[runtime.as_slice(), &limit, &timeout].concat());
            add(
                &format!("{cri}.cni"),
                &[
                    format!("bin_dir = {}", path("cni")),
                    format!("conf_dir = {}", path("cni")),
                ],
            );
            add(&format!("{cri}.registry"), &[certs]);
            add(&format!("{cri}.containerd"), &[snapshotter]);
        }
        Line::V2 => {
            let images = "plugins.\"io.containerd.cri.v1.images\"";
            let runtimes = "plugins.\"io.containerd.cri.v1.runtime\"";
            let local = format!("use_local_image_pull = {}", options.local_pull);
            // A limit of CRI's own would make it pull in process; through the transfer service only that service's counts.
            let own_limit = limit
                .iter()
                .filter(|_| options.local_pull)
                .cloned()
                .collect::<Vec<_>>();
            add(
                images,
                &[[snapshotter, local].as_slice(), &own_limit, &timeout].concat(),
            );
            add(&format!("{images}.registry"), &[certs]);
            add(runtimes, &runtime);
            add(
                &format!("{runtimes}.cni"),
                &[
                    format!("bin_dirs = [{}]", path("cni")),
                    format!("conf_dir = {}", path("cni")),
                ],
            );
            add(
                "plugins.\"io.containerd.image-verifier.v1.bindir\"",
                &[format!("bin_dir = {}", path("verifiers"))],
            );
            if !limit.is_empty() {
                add("plugins.\"io.containerd.transfer.v1.local\"", &limit);
            }
        }
    }
    add(
        "plugins.\"io.containerd.internal.v1.opt\"",
        &[format!("path = {}", path("opt"))],
    );
    if options.nri {
        add(
            &format!("plugins.\"{NRI}\""),
            &[
                "disable = false".to_owned(),
                format!("socket_path = {}", path("nri.sock")),
                format!("plugin_path = {}", path("nri-plugins")),
                format!("plugin_config_path = {}", path("nri-conf")),
            ],
        );
    }
    text.push_str(&options.extra_toml);
    text
}

/// A TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_path_with_quotes_stays_one_string() {
        assert_eq!(quoted(r#"/a"b\c"#), r#""/a\"b\\c""#);
    }
}
