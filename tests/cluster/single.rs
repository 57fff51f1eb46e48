//! One machine, the happy day and the bad input.

use crate::harness::*;
use crate::image;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

const HTTPD: &[&str] = &["httpd", "-f", "-p", "8080", "-h", "/www"];

fn site() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/site"))
}

/// A node with `shop` running busybox's httpd.
pub fn shop(count: u32) -> Node {
    let node = Node::start();
    let archive = image::busybox(node.data.parent().unwrap(), "shop:1", HTTPD);
    node.ok(&["image", "load", archive.to_str().unwrap()]);
    node.ok(&["deploy", "--image", "shop:1", "--name", "shop"]);
    if count > 1 {
        scale(&node, count);
    }
    node
}

pub fn scale(node: &Node, count: u32) {
    node.ok(&["scale", &format!("web={count}"), "-a", "shop"]);
    wait_for("all instances", 30, || {
        let ready = ready_instances(node).len() as u32;
        if ready == count { Ok(()) } else { Err(format!("{ready} of {count} are ready")) }
    });
}

pub fn ready_instances(node: &Node) -> Vec<serde_json::Value> {
    let status = node.json(&["status", "shop"]);
    let instances = status["apps"][0]["instances"].as_array().cloned().unwrap_or_default();
    instances.into_iter().filter(|i| i["ready"] == true && i["desired"] == "run").collect()
}

#[test]
fn a_folder_is_served_from_a_container_and_found_again_after_a_restart() {
    on_own_network(|| {
        let mut node = Node::start_with(site());
        let page = get("site.localhost", "/").unwrap();
        assert_eq!(page.status, 200, "{page:?}");
        assert!(page.body_text().contains("It runs."), "{page:?}");
        assert!(page.head.to_ascii_lowercase().contains("content-type: text/html"), "{page:?}");
        assert_eq!(get("site.localhost", "/style.css").unwrap().status, 200);
        assert_eq!(get("site.localhost", "/nothing").unwrap().status, 404);

        assert!(node.interrupt().success(), "Ctrl-C is a good end");
        assert_eq!(node.traces(), Vec::<String>::new(), "nothing is left behind");

        node.start_again(&[]);
        wait_for("the site again", 20, || match get("site.localhost", "/") {
            Ok(page) if page.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    });
}

#[test]
fn an_unknown_host_is_told_so_and_a_stopped_app_is_unavailable() {
    on_own_network(|| {
        let node = shop(1);
        let page = get("nobody.localhost", "/").unwrap();
        assert_eq!(page.status, 404);
        assert!(page.body_text().contains("nobody.localhost"), "{page:?}");
        node.ok(&["stop", "shop"]);
        wait_for("503", 20, || match get("shop.localhost", "/").unwrap().status {
            503 => Ok(()),
            other => Err(other.to_string()),
        });
        node.ok(&["start", "shop"]);
        wait_for("200", 20, || match get("shop.localhost", "/").unwrap().status {
            200 => Ok(()),
            other => Err(other.to_string()),
        });
        node.ok(&["app", "rm", "shop"]);
        assert_eq!(node.json(&["app", "ls"])["apps"], serde_json::json!([]), "it returns when it is gone");
        node.ok(&["deploy", "--image", "shop:1", "--name", "shop"]);
        wait_for("200", 20, || match get("shop.localhost", "/").unwrap().status {
            200 => Ok(()),
            other => Err(other.to_string()),
        });
    });
}

#[test]
fn requests_are_spread_over_all_instances() {
    on_own_network(|| {
        let _node = shop(3);
        let mut names = BTreeSet::new();
        for _ in 0..60 {
            let page = get("shop.localhost", "/cgi-bin/who").unwrap();
            assert_eq!(page.status, 200, "{page:?}");
            names.insert(page.body_text());
        }
        assert_eq!(names.len(), 3, "{names:?}");
    });
}

#[test]
fn exec_hands_through_output_input_and_status() {
    on_own_network(|| {
        let node = shop(1);
        let output = node.run(&["exec", "shop/web.1", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "out\n");
        assert!(text(&output.stderr).contains("err"));
        let mut child = node
            .command(&["exec", "-i", "shop/web.1", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through and back\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "through and back\n"));
    });
}

#[test]
fn a_command_that_cannot_be_executed_ends_as_in_a_shell() {
    on_own_network(|| {
        let node = shop(2);
        for (command, code, said) in [
            ("foo", 127, "shop/web.1 has no command `foo`"),
            ("/no/such/thing", 127, "shop/web.1 has no command `/no/such/thing`"),
            ("/etc/passwd", 126, "shop/web.1 has `/etc/passwd`, which is not executable"),
        ] {
            for more in [&[][..], &["-t"][..]] {
                let args = [&["exec"], more, &["shop/web.1", "--", command]].concat();
                let output = node.run(&args);
                assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
                assert_eq!(text(&output.stderr), format!("error: {said}\n"));
            }
        }
        let output = node.run(&["exec", "shop", "--", "hostname"]);
        assert_eq!(text(&output.stderr), "in shop/web.1\n", "one of two was chosen");
        let output = node.run(&["exec", "shop/web.2", "--", "hostname"]);
        assert_eq!(text(&output.stderr), "");
    });
}

#[test]
fn an_entrypoint_that_is_not_there_is_told_plainly() {
    on_own_network(|| {
        let node = Node::start();
        let archive = image::busybox(node.data.parent().unwrap(), "bad:1", &["/app/server", "--port"]);
        node.ok(&["image", "load", archive.to_str().unwrap()]);
        let output = node.run(&["deploy", "--image", "bad:1", "--name", "bad"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("could not start, three times: its image has no program `/app/server`"),
            "{said}"
        );
        assert!(!said.contains("libcontainer") && !said.contains("could not create"), "{said}");
    });
}

#[test]
fn a_container_is_confined() {
    on_own_network(|| {
        let node = shop(1);
        let sh = |script: &str| text(&node.run(&["exec", "shop/web.1", "--", "sh", "-c", script]).stdout);
        let map = sh("cat /proc/self/uid_map");
        let outside: u64 = map.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect(&map);
        assert!(outside >= 65_536, "root inside is nobody outside: {map}");
        assert!(sh("cat /proc/self/status").contains("NoNewPrivs:\t1"));
        assert!(sh("cat /proc/self/status").contains("Seccomp:\t2"));
        let init = sh("cat /proc/1/status");
        assert!(init.contains("NoNewPrivs:\t1") && init.contains("Seccomp:\t2"), "{init}");
        assert_eq!(sh("hostname"), sh("cat /etc/hostname"));
        assert!(!sh("ls /proc/1/root/").is_empty());
    });
}

#[test]
fn logs_come_with_both_streams_and_outlive_the_instance() {
    on_own_network(|| {
        let node = Node::start();
        let talk = "echo one; echo two >&2; exec httpd -f -p 8080 -h /www";
        let archive = image::busybox(node.data.parent().unwrap(), "shop:1", &["sh", "-c", talk]);
        node.ok(&["image", "load", archive.to_str().unwrap()]);
        node.ok(&["deploy", "--image", "shop:1", "--name", "shop"]);
        let logs = node.ok(&["logs", "shop"]);
        assert!(logs.contains("one") && logs.contains("two"), "{logs}");
        node.ok(&["stop", "shop"]);
        wait_for("the instance to go", 20, || {
            let count = node.json(&["status", "shop"])["apps"][0]["instances"].as_array().map_or(0, Vec::len);
            if count == 0 { Ok(()) } else { Err(format!("{count} are left")) }
        });
        let logs = node.ok(&["logs", "shop", "--previous"]);
        assert!(logs.contains("one"), "{logs}");
    });
}

#[test]
fn an_app_that_never_listens_fails_its_deployment_with_its_last_words() {
    on_own_network(|| {
        let node = Node::start();
        let dir = node.data.parent().unwrap();
        let archive =
            image::busybox(dir, "mute:1", &["sh", "-c", "echo cannot find my database; exec sleep 1000"]);
        node.ok(&["image", "load", archive.to_str().unwrap()]);
        let manifest = dir.join("nodectl.toml");
        std::fs::write(
            &manifest,
            "app = \"mute\"\nimage = \"mute:1\"\n[process.web]\nport = 8080\n[deploy]\ndeadline = \"5s\"\n",
        )
        .unwrap();
        let output = node.run(&["deploy", "-f", manifest.to_str().unwrap()]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.matches("cannot find my database").count(), 1, "told once: {said}");
    });
}

#[test]
fn an_app_that_never_listens_has_one_grace_and_is_told_what_to_check() {
    on_own_network(|| {
        let node = Node::start();
        let dir = node.data.parent().unwrap();
        let archive = image::busybox(dir, "mute:1", &["sh", "-c", "echo hello; exec sleep 1000"]);
        node.ok(&["image", "load", archive.to_str().unwrap()]);
        let manifest = dir.join("nodectl.toml");
        std::fs::write(
            &manifest,
            "app = \"mute\"\nimage = \"mute:1\"\n[process.web]\nport = 8080\n\
             health = { tcp = true, grace = \"2s\" }\n[deploy]\ndeadline = \"10m\"\n",
        )
        .unwrap();
        let output = node.run(&["deploy", "-f", manifest.to_str().unwrap()]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in ["not healthy within 2 s", "nothing listens on port 8080", "0.0.0.0", "$PORT"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(said.matches("| hello").count(), 1, "told once: {said}");
    });
}

#[test]
fn a_second_deploy_is_refused_or_takes_over_and_the_first_is_told() {
    on_own_network(|| {
        let node = shop(1);
        let dir = node.data.parent().unwrap();
        let mute = image::busybox(dir, "shop:2", &["sh", "-c", "exec sleep 1000"]);
        node.ok(&["image", "load", mute.to_str().unwrap()]);
        let first = node
            .command(&["deploy", "--image", "shop:2", "--name", "shop"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for("the first deploy", 20, || {
            let status = node.json(&["status", "shop"])["apps"][0]["deployment"].clone();
            if status["release"] == 2 { Ok(()) } else { Err(status.to_string()) }
        });
        let third = image::busybox(dir, "shop:3", &["httpd", "-f", "-p", "8080", "-h", "/www/"]);
        node.ok(&["image", "load", third.to_str().unwrap()]);
        let refused = node.run(&["deploy", "--image", "shop:3", "--name", "shop"]);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("is being deployed already (v2)") && said.contains("--force"), "{said}");
        node.ok(&["deploy", "--image", "shop:3", "--name", "shop", "--force"]);
        let first = first.wait_with_output().unwrap();
        let said = text(&first.stderr);
        assert_eq!(first.status.code(), Some(1), "{said}");
        assert!(said.contains("error: v2 was superseded by v3\n"), "{said}");
        assert_eq!(get("shop.localhost", "/").unwrap().status, 200);
    });
}

#[test]
fn a_bad_release_leaves_the_good_one_serving() {
    on_own_network(|| {
        let node = shop(2);
        let dir = node.data.parent().unwrap();
        let archive = image::busybox(dir, "shop:2", &["sh", "-c", "echo no such setting; exit 3"]);
        node.ok(&["image", "load", archive.to_str().unwrap()]);
        let output = node.run(&["deploy", "--image", "shop:2", "--name", "shop"]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("no such setting") && said.contains("exited with status 3"), "{said}");
        assert_eq!(ready_instances(&node).len(), 2);
        assert_eq!(get("shop.localhost", "/").unwrap().status, 200);
    });
}

#[test]
fn what_the_node_writes_is_for_nobody_else() {
    use std::os::unix::fs::MetadataExt;
    on_own_network(|| {
        let node = shop(1);
        assert_eq!(get("shop.localhost", "/").unwrap().status, 200, "and containers see what they should");
        let ids = text(&node.run(&["exec", "shop/web.1", "--", "sh", "-c", "id -u; umask"]).stdout);
        assert_eq!(ids, "0\n0022\n");
        let mut open = Vec::new();
        let mut folders = vec![node.data.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap().flatten() {
                let (path, meta) = (entry.path(), entry.metadata().unwrap());
                let mine = path.strip_prefix(&node.data).unwrap().to_str().unwrap().to_owned();
                // Layers and what containers write have the modes that the images say.
                let of_containers =
                    (mine.starts_with("images/layers/") || mine.starts_with("scratch/")) && meta.is_dir();
                if of_containers {
                    continue;
                }
                if !meta.is_symlink() && meta.mode() & 0o077 != 0 {
                    open.push(format!("{mine} {:o}", meta.mode() & 0o7777));
                }
                if meta.is_dir() {
                    folders.push(path);
                }
            }
        }
        assert_eq!(open, Vec::<String>::new());
    });
}

#[test]
fn what_does_not_fit_is_explained_with_numbers() {
    on_own_network(|| {
        let node = Node::start();
        let dir = node.data.parent().unwrap();
        let archive = image::busybox(dir, "big:1", HTTPD);
        node.ok(&["image", "load", archive.to_str().unwrap()]);
        let manifest = dir.join("nodectl.toml");
        std::fs::write(
            &manifest,
            "app = \"big\"\nimage = \"big:1\"\n[process.web]\nport = 8080\nmemory = \"64TB\"\n",
        )
        .unwrap();
        node.ok(&["deploy", "-f", manifest.to_str().unwrap(), "--detach"]);
        wait_for("the reason", 10, || {
            let why = node.ok(&["why", "big"]);
            if why.contains("64 TB") && why.contains("largest free") { Ok(()) } else { Err(why) }
        });
    });
}

#[test]
fn faults_of_the_surroundings_are_said_plainly() {
    on_own_network(|| {
        let node = shop(1);
        let folder = node.data.to_str().unwrap().to_owned();
        let run = |args: &[&str]| {
            let output = std::process::Command::new(BINARY).args(args).stdin(Stdio::null()).output().unwrap();
            (output.status.code(), text(&output.stderr))
        };
        let (code, said) = run(&["dev", "--data-dir", &folder, "--http", "127.0.0.1:8081"]);
        assert_eq!(code, Some(1));
        assert!(said.contains("another node is running"), "{said}");
        let other = tempfile::tempdir().unwrap();
        let other_folder = other.path().join("d");
        let (code, said) = run(&["dev", "--data-dir", other_folder.to_str().unwrap(), "--http", HTTP]);
        assert_eq!(code, Some(1));
        assert!(said.contains("in use") && said.contains("--http"), "{said}");
        assert!(!other_folder.exists(), "nothing half-made is left");
        let (code, said) = run(&["deploy", "--bogus"]);
        assert_eq!(code, Some(2), "{said}");
        let junk = other.path().join("junk.tar");
        std::fs::write(&junk, "this is no archive at all").unwrap();
        let output = node.run(&["image", "load", junk.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        let output = node.run(&["deploy", "--image", "shopp:1", "--name", "x"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("shop:1"), "names what is near: {}", text(&output.stderr));
    });
}
