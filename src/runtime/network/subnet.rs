//! Which addresses: the choice of a node's subnet, and of the next free address in it. Pure.
//!
//! A container is known to the kernel by one number, its slot: the host part of its address.
//! The address, the MAC and the name of the veth all follow from it, so that nothing but
//! (key, slot) has to be written down.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

pub type Mac = [u8; 6];

/// Where subnets are taken from, in this order. Several, because a company's VPN often claims
/// all of 10.0.0.0/8. Each /20 holds 4,093 containers, more than a bridge has ports (1,023).
const POOLS: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 209, 0, 0), 16),
    (Ipv4Addr::new(172, 29, 0, 0), 16),
    (Ipv4Addr::new(192, 168, 208, 0), 20),
];
/// Tried in turn: the roomy size first.
const PREFIX_LENS: [u8; 2] = [20, 22];

/// An IPv4 network. The gateway (the node's own address in it) is its first host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    base: u32,
    prefix_len: u8,
}

impl Subnet {
    /// The network of this size that `address` lies in; sizes above 32 count as 32.
    pub fn containing(address: Ipv4Addr, prefix_len: u8) -> Subnet {
        let prefix_len = prefix_len.min(32);
        Subnet { base: u32::from(address) & mask(prefix_len), prefix_len }
    }

    pub fn base(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix_len))
    }

    pub fn gateway(self) -> Ipv4Addr {
        self.address(1)
    }

    pub fn address(self, slot: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base | slot)
    }

    /// The slots that containers may have: neither the network, the gateway nor the broadcast.
    pub fn slots(self) -> std::ops::Range<u32> {
        2..(!mask(self.prefix_len))
    }

    pub fn overlaps(self, other: Subnet) -> bool {
        let shorter = mask(self.prefix_len.min(other.prefix_len));
        self.base & shorter == other.base & shorter
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix_len)
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Subnet, String> {
        let parsed = text.trim().split_once('/').and_then(|(address, prefix_len)| {
            let prefix_len = prefix_len.parse().ok().filter(|len| (8..=29).contains(len))?;
            Some(Subnet::containing(address.parse().ok()?, prefix_len))
        });
        parsed.ok_or_else(|| format!("{text:?} is no subnet such as 10.209.0.0/20"))
    }
}

/// The subnet for this node: the remembered one while nothing else uses it, else the first free
/// one of the pools, else `None`.
pub fn choose(remembered: Option<Subnet>, in_use: &[Subnet]) -> Option<Subnet> {
    let is_free = |candidate: &Subnet| !in_use.iter().any(|used| used.overlaps(*candidate));
    remembered.filter(is_free).or_else(|| candidates().find(is_free))
}

fn candidates() -> impl Iterator<Item = Subnet> {
    PREFIX_LENS.into_iter().flat_map(|prefix_len| {
        POOLS.into_iter().filter(move |pool| pool.1 <= prefix_len).flat_map(move |(base, pool_len)| {
            let count = 1_u32 << (prefix_len - pool_len);
            let step = 1_u32 << (32 - prefix_len);
            (0..count).map(move |n| Subnet { base: u32::from(base) + n * step, prefix_len })
        })
    })
}

/// The first free slot from `next` on, round and round: a freed address rests as long as it can,
/// so that a late packet of its last owner's finds nobody instead of a stranger.
pub fn next_free(subnet: Subnet, next: u32, is_taken: impl Fn(u32) -> bool) -> Option<u32> {
    let slots = subnet.slots();
    let start = if slots.contains(&next) { next } else { slots.start };
    (start..slots.end).chain(slots.start..start).find(|slot| !is_taken(*slot))
}

/// A locally administered MAC that spells the address (`0a:58` is the prefix CNI uses for this).
pub fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().expect("a subnet")
    }

    #[test]
    fn the_first_free_subnet_is_chosen_and_the_remembered_one_kept() {
        let cases: [(Option<&str>, &[&str], Option<&str>); 7] = [
            (None, &[], Some("10.209.0.0/20")),
            (None, &["10.209.0.0/24"], Some("10.209.16.0/20")),
            (None, &["10.209.0.0/17"], Some("10.209.128.0/20")),
            (None, &["10.0.0.0/8"], Some("172.29.0.0/20")),
            (Some("10.209.64.0/20"), &["10.209.0.0/24"], Some("10.209.64.0/20")),
            (Some("10.209.64.0/20"), &["10.209.65.0/24"], Some("10.209.0.0/20")),
            (None, &["10.0.0.0/8", "172.16.0.0/12", "192.168.208.0/24"], Some("192.168.212.0/22")),
        ];
        for (remembered, in_use, expected) in cases {
            let in_use: Vec<_> = in_use.iter().map(|text| subnet(text)).collect();
            assert_eq!(choose(remembered.map(subnet), &in_use), expected.map(subnet), "{in_use:?}");
        }
        assert_eq!(
            choose(
                None,
                &[
                    subnet("10.0.0.0/8"),
                    subnet("172.16.0.0/12"),
                    Subnet::containing(Ipv4Addr::new(192, 168, 0, 0), 16)
                ]
            ),
            None
        );
    }

    #[test]
    fn freed_slots_are_not_reused_before_the_others_had_their_turn() {
        let small = subnet("10.209.0.0/29");
        assert_eq!(small.slots(), 2..7);
        assert_eq!(next_free(small, 0, |_| false), Some(2));
        assert_eq!(next_free(small, 4, |slot| slot == 4), Some(5));
        assert_eq!(next_free(small, 6, |slot| slot == 6), Some(2));
        assert_eq!(next_free(small, 7, |_| false), Some(2));
        assert_eq!(next_free(small, 3, |_| true), None);
    }

    #[test]
    fn a_subnet_is_read_as_it_is_written_and_nonsense_is_refused() {
        assert_eq!(subnet("10.209.16.0/20").to_string(), "10.209.16.0/20");
        assert_eq!(subnet("10.209.16.0/20").gateway(), Ipv4Addr::new(10, 209, 16, 1));
        assert_eq!(subnet("10.209.16.0/20").address(300), Ipv4Addr::new(10, 209, 17, 44));
        for text in ["", "10.209.0.0", "10.209.0.0/33", "x/20", "10.209.0.0/0"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_at_the_edge_do_not_overflow() {
        assert!(Subnet::containing(Ipv4Addr::LOCALHOST, 0).overlaps(subnet("10.0.0.0/8")));
        assert_eq!(Subnet::containing(Ipv4Addr::LOCALHOST, 200).prefix_len(), 32);
    }
}
