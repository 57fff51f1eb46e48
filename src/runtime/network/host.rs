//! The host's side of a network: one node's bridge, tables and inserted rules, and one
//! container's veth. Each function does one step; `mod.rs` knows who is attached and in what
//! order the steps go.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::foreign::{self, Warning};
use super::inside::{self, Namespace, Plan, write_setting};
use super::links;
use super::netlink::Socket;
use super::nft::{self, Family, Table};
use super::records::Records;
use super::rules::{self, Facts, PORTS};
use super::subnet::{self, Subnet, mac_of};
use super::{Attachment, Config, Error, Proto, kernel};

#[derive(Debug)]
pub struct Host {
    pub subnet: Subnet,
    bridge: String,
    bridge_index: u32,
    table: String,
    veth_prefix: String,
    allowed_gateway_ports: Vec<(Proto, u16)>,
    /// Other containers' bridges, as the tables that were last written have them.
    known_bridges: Mutex<Option<BTreeSet<String>>>,
}

/// The tables as they should be.
struct Wanted {
    tables: Vec<Table>,
    other_bridges: BTreeSet<String>,
}

impl Host {
    /// The bridge and its tables, found or made. Those in the `recorded` slots may speak, and
    /// those who have a veth already.
    pub fn open(config: &Config, records: &Records, recorded: BTreeSet<u32>) -> Result<Host, Error> {
        // Two nodes that start at once must not choose the same subnet.
        let _lock = lock_namespace()?;
        let bridge = format!("ndctl-{}", config.tag);
        let mut socket = route()?;
        let existed = find(&mut socket, &bridge)?.is_some();
        let opened = Host::make(config, records, &mut socket, &bridge).and_then(|host| {
            let mut slots = recorded;
            slots.extend(host.connected_slots()?);
            host.put_tables(slots.into_iter().collect())?;
            host.repair_surroundings();
            links::set_up(&mut socket, host.bridge_index).map_err(kernel(format!("bring {bridge} up")))?;
            Ok(host)
        });
        if opened.is_err() && !existed {
            // Best effort: the first error is the one to tell.
            _ = remove(&bridge, &table_name(config));
            _ = restore_forwarding(records, &[]);
        }
        opened
    }

    fn make(config: &Config, records: &Records, socket: &mut Socket, bridge: &str) -> Result<Host, Error> {
        let subnet = find_subnet(socket, bridge, records)?;
        let gateway = subnet.gateway();
        let failed = |what: &str| kernel(format!("{what} the bridge {bridge}"));
        if find(socket, bridge)?.is_none() {
            links::create_bridge(socket, bridge, mac_of(gateway)).map_err(failed("create"))?;
            write_setting(&format!("ipv6/conf/{bridge}/disable_ipv6"), "1").map_err(failed("configure"))?;
        }
        let index = find(socket, bridge)?.ok_or_else(|| failed("find")(io::ErrorKind::NotFound.into()))?;
        links::add_address(socket, index, gateway, subnet.prefix_len())
            .map_err(failed("give an address to"))?;
        records.put_subnet(subnet)?;
        switch_forwarding_on(records)?;
        Ok(Host {
            subnet,
            bridge: bridge.to_owned(),
            bridge_index: index,
            table: table_name(config),
            veth_prefix: format!("nv{}-", config.tag),
            allowed_gateway_ports: config.allowed_gateway_ports.clone(),
            known_bridges: Mutex::default(),
        })
    }

    pub fn attachment(&self, slot: u32) -> Attachment {
        Attachment {
            address: self.subnet.address(slot).into(),
            prefix_len: self.subnet.prefix_len(),
            gateway: self.subnet.gateway().into(),
        }
    }

    /// Writes both tables anew; those in `slots` may speak.
    pub fn put_tables(&self, slots: Vec<u32>) -> Result<(), Error> {
        self.put(self.tables(slots)?)
    }

    /// Writes both tables anew if rules of theirs are gone, or bridges have come or gone that
    /// containers must not reach. Whether that was so.
    pub fn repair_tables(&self, slots: Vec<u32>) -> Result<bool, Error> {
        let wanted = self.tables(slots)?;
        let failed = || kernel(format!("look at the nftables tables {}", self.table));
        let mut socket = netfilter()?;
        let is_known = self.known_bridges().as_ref() == Some(&wanted.other_bridges);
        let mut is_whole = is_known;
        for table in &wanted.tables {
            is_whole &= nft::is_whole(&mut socket, table).map_err(failed())?;
        }
        if !is_whole {
            self.put(wanted)?;
        }
        Ok(!is_whole)
    }

    fn put(&self, wanted: Wanted) -> Result<(), Error> {
        nft::put(&mut netfilter()?, &wanted.tables)
            .map_err(kernel(format!("write the nftables tables {}", self.table)))?;
        *self.known_bridges() = Some(wanted.other_bridges);
        Ok(())
    }

    fn known_bridges(&self) -> MutexGuard<'_, Option<BTreeSet<String>>> {
        self.known_bridges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self, slots: Vec<u32>) -> Result<Wanted, Error> {
        let other_bridges = self.other_bridges()?;
        let facts = Facts {
            table: &self.table,
            bridge: &self.bridge,
            veth_prefix: &self.veth_prefix,
            subnet: self.subnet,
            allowed_gateway_ports: &self.allowed_gateway_ports,
            other_bridges: other_bridges.clone(),
            slots,
        };
        Ok(Wanted { tables: rules::tables(&facts), other_bridges })
    }

    fn other_bridges(&self) -> Result<BTreeSet<String>, Error> {
        let all = links::list(&mut route()?).map_err(kernel("list the network links"))?;
        let names = all.into_iter().map(|link| link.name);
        Ok(names.filter(|name| *name != self.bridge && rules::is_container_bridge(name)).collect())
    }

    /// Puts our accept rules where other firewalls would drop what our own lets pass. What cannot
    /// be put is told by [`Host::diagnose`].
    pub fn repair_surroundings(&self) {
        _ = foreign::insert_accepts(&self.bridge, &self.table);
    }

    pub fn diagnose(&self) -> Result<Vec<Warning>, Error> {
        foreign::diagnose(&self.bridge, &self.table).map_err(kernel("look at the host's firewall"))
    }

    /// Lets the container in `slot` speak, under its own address only.
    pub fn admit(&self, slot: u32) -> Result<(), Error> {
        let key = rules::owner_of_port(&self.veth_prefix, self.subnet, slot);
        nft::add_elements(&mut netfilter()?, Family::Bridge, &self.table, PORTS, &[key])
            .map_err(kernel(format!("admit {}{slot} to the network", self.veth_prefix)))
    }

    pub fn dismiss(&self, slot: u32) -> Result<(), Error> {
        let key = rules::owner_of_port(&self.veth_prefix, self.subnet, slot);
        nft::delete_element(&mut netfilter()?, Family::Bridge, &self.table, PORTS, &key)
            .map_err(kernel(format!("dismiss {}{slot} from the network", self.veth_prefix)))
    }

    /// Makes the veth of `slot`, plugged in at both ends.
    pub fn connect(&self, slot: u32, namespace: &Namespace) -> Result<(), Error> {
        let plan = Plan {
            veth: format!("{}{slot}", self.veth_prefix),
            bridge: self.bridge_index,
            bridge_name: self.bridge.clone(),
            address: self.subnet.address(slot),
            prefix_len: self.subnet.prefix_len(),
            gateway: self.subnet.gateway(),
        };
        inside::connect(&mut route()?, namespace, &plan)
            .map_err(kernel(format!("connect {} to the bridge {}", plan.veth, self.bridge)))
    }

    pub fn disconnect(&self, slot: u32) -> Result<(), Error> {
        let veth = format!("{}{slot}", self.veth_prefix);
        let mut socket = route()?;
        links::delete(&mut socket, &veth).map_err(kernel(format!("delete the link {veth}")))?;
        links::unpin_neighbour(&mut socket, self.bridge_index, self.subnet.address(slot))
            .map_err(kernel(format!("forget the neighbour behind {veth}")))
    }

    /// The slots of which there is a veth, known or not.
    pub fn connected_slots(&self) -> Result<Vec<u32>, Error> {
        let all = links::list(&mut route()?).map_err(kernel("list the network links"))?;
        let slot_of = |name: &str| name.strip_prefix(&self.veth_prefix)?.parse().ok();
        Ok(all.iter().filter_map(|link| slot_of(&link.name)).collect())
    }

    pub fn close(&self, records: &Records) -> Result<(), Error> {
        let _lock = lock_namespace()?;
        foreign::remove_accepts(&self.table)
            .map_err(kernel(format!("take the rules for {} out of the host's iptables", self.bridge)))?;
        for slot in self.connected_slots()? {
            self.disconnect(slot)?;
        }
        remove(&self.bridge, &self.table)?;
        restore_forwarding(records, &links::list(&mut route()?).map_err(kernel("list the network links"))?)
    }
}

fn table_name(config: &Config) -> String {
    format!("nodectl-{}", config.tag)
}

fn remove(bridge: &str, table: &str) -> Result<(), Error> {
    links::delete(&mut route()?, bridge).map_err(kernel(format!("delete the bridge {bridge}")))?;
    for family in [Family::Bridge, Family::Inet] {
        nft::delete(&mut netfilter()?, family, table)
            .map_err(kernel(format!("delete the nftables table {table}")))?;
    }
    Ok(())
}

/// The bridge's own subnet if it has one, else the remembered one, else the first free one.
fn find_subnet(socket: &mut Socket, bridge: &str, records: &Records) -> Result<Subnet, Error> {
    let failed = || kernel("list the host's addresses and routes");
    let index = find(socket, bridge)?;
    if let Some(index) = index {
        let addresses = links::addresses_of(socket, index).map_err(failed())?;
        let ours = |(address, len): &(Ipv4Addr, u8)| Subnet::containing(*address, *len).gateway() == *address;
        if let Some((address, prefix_len)) = addresses.into_iter().find(ours) {
            return Ok(Subnet::containing(address, prefix_len));
        }
    }
    let in_use = links::networks_in_use(socket).map_err(failed())?;
    let others: Vec<Subnet> =
        in_use.into_iter().filter(|used| Some(used.1) != index).map(|used| used.0).collect();
    subnet::choose(records.subnet(), &others).ok_or(Error::NoFreeSubnet)
}

const FORWARDING: &str = "ipv4/ip_forward";

fn switch_forwarding_on(records: &Records) -> Result<(), Error> {
    let failed = || kernel("switch IP forwarding on (net.ipv4.ip_forward)");
    let current = fs::read_to_string(format!("/proc/sys/net/{FORWARDING}")).map_err(failed())?;
    if current.trim() == "0" {
        records.put_switched_forwarding_on()?;
        write_setting(FORWARDING, "1").map_err(failed())?;
    }
    Ok(())
}

/// Switches forwarding off again if it was us who switched it on, and no other bridge of
/// containers has come since and relies on it.
fn restore_forwarding(records: &Records, links: &[links::Link]) -> Result<(), Error> {
    let in_need = links.iter().any(|link| rules::is_container_bridge(&link.name));
    if records.has_switched_forwarding_on() && !in_need {
        write_setting(FORWARDING, "0").map_err(kernel("switch IP forwarding off again"))?;
    }
    Ok(())
}

/// A lock that is exactly as wide as the network namespace, because it is on it; held by the
/// returned file, gone with its holder, and nothing on disk to leave behind.
fn lock_namespace() -> Result<Flock<File>, Error> {
    let failed = || kernel("wait for another node of this host to open its network");
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut file = File::open("/proc/thread-self/ns/net").map_err(failed())?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, error)) if error != nix::Error::EWOULDBLOCK || Instant::now() > deadline => {
                return Err(failed()(error.into()));
            }
            Err((unlocked, _)) => file = unlocked,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn find(socket: &mut Socket, name: &str) -> Result<Option<u32>, Error> {
    links::index_of(socket, name).map_err(kernel(format!("look for the link {name}")))
}

fn route() -> Result<Socket, Error> {
    Socket::route().map_err(kernel("open a netlink socket"))
}

fn netfilter() -> Result<Socket, Error> {
    Socket::netfilter().map_err(kernel("open a netfilter socket"))
}
