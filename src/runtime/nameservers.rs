//! What containers are told to ask for names: the node itself, and behind it the host's own
//! name servers, as long as the node answers none. An asker that is refused by the first goes
//! on with the next at once.

use std::net::IpAddr;

/// More than these a resolver does not read (MAXNS of resolv.h).
const READ_BY_RESOLVERS: usize = 3;

/// Where a host says whom it asks. With systemd-resolved the first names only its own stub
/// on loopback, which no container can reach; the second says who is behind it.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The name servers of this host that are not on its loopback.
pub(super) fn of_host() -> Vec<IpAddr> {
    let read = |file: &&str| std::fs::read_to_string(file).map(|text| servers(&text)).unwrap_or_default();
    FILES.iter().map(read).find(|servers| !servers.is_empty()).unwrap_or_default()
}

fn servers(text: &str) -> Vec<IpAddr> {
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    // A zone (`fe80::1%eth0`) means nothing elsewhere: such a line does not parse.
    named.filter_map(|rest| rest.trim().parse().ok()).filter(|ip: &IpAddr| !ip.is_loopback()).collect()
}

/// The text of /etc/resolv.conf. A container without a network gets none.
pub(super) fn resolv_conf(gateway: Option<IpAddr>, of_host: &[IpAddr]) -> String {
    let Some(gateway) = gateway else { return String::new() };
    let all = std::iter::once(&gateway).chain(of_host).take(READ_BY_RESOLVERS);
    let lines: String = all.map(|server| format!("nameserver {server}\n")).collect();
    lines + "options ndots:0\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_on_loopback_is_no_name_server_for_a_container() {
        assert!(servers("nameserver 127.0.0.53\nnameserver ::1\nsearch lan\n").is_empty());
        let text = "# comment\nnameserver 10.0.0.53\n nameserver\t2001:db8::53 \nnameserver fe80::1%eth0\n";
        let expected: Vec<IpAddr> =
            ["10.0.0.53", "2001:db8::53"].iter().map(|ip| ip.parse().expect("ip")).collect();
        assert_eq!(servers(text), expected);
    }

    #[test]
    fn the_node_is_asked_first_and_then_whom_the_host_asks() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("ip");
        let host = [ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.0.3")];
        assert_eq!(
            resolv_conf(Some(ip("10.209.0.1")), &host),
            "nameserver 10.209.0.1\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:0\n"
        );
        assert_eq!(resolv_conf(None, &host), "");
    }
}
