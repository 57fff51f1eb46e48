//! Who an image's USER is: `name`, `uid`, `name:group`, `uid:gid`, looked up in the image's
//! own /etc/passwd and /etc/group. Pure; reading those files safely is `rootdir`'s.

/// A resolved user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: Option<String>,
}

/// Why a USER cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("user {0:?} is not in the image's /etc/passwd")]
    UnknownUser(String),
    #[error("group {0:?} is not in the image's /etc/group")]
    UnknownGroup(String),
    #[error("id {0} is outside the 65,536 ids of the container's user namespace")]
    OutOfRange(u32),
}

/// Ids in a private user namespace: 0 to 65,535.
pub const RANGE: u32 = 65_536;

/// Resolves `user` against the text of an image's passwd and group files.
///
/// Supplementary groups are those that list the user, as login would give them, and the
/// primary one: a process that changes its primary group must not get past what a file's
/// permissions deny to it (CVE-2022-36109). A group named in `user` replaces the primary
/// one. All as in Docker.
///
/// # Errors
/// A name that the files don't have, or with `limited` an id outside the namespace.
pub fn resolve(user: &str, passwd: &str, group: &str, limited: bool) -> Result<Identity, Error> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let by_id = user.parse::<u32>().ok();
    let entry = passwd.lines().filter_map(PasswdLine::parse).find(|line| match by_id {
        Some(uid) => line.uid == uid,
        None => line.name == user,
    });
    let mut identity = match (&entry, by_id) {
        (Some(line), _) => Identity {
            uid: line.uid,
            gid: line.gid,
            groups: Vec::new(),
            home: (!line.home.is_empty()).then(|| line.home.to_owned()),
        },
        (None, Some(uid)) => Identity { uid, ..Identity::default() },
        (None, None) => return Err(Error::UnknownUser(user.to_owned())),
    };
    let groups: Vec<GroupLine<'_>> = group.lines().filter_map(GroupLine::parse).collect();
    match wanted_group.filter(|group| !group.is_empty()) {
        Some(wanted) => {
            identity.gid = match wanted.parse::<u32>() {
                Ok(gid) => gid,
                Err(_) => groups
                    .iter()
                    .find(|line| line.name == wanted)
                    .map(|line| line.gid)
                    .ok_or_else(|| Error::UnknownGroup(wanted.to_owned()))?,
            };
        }
        None => {
            if let Some(line) = &entry {
                let member = |g: &&GroupLine<'_>| g.members.split(',').any(|name| name == line.name);
                identity.groups = groups.iter().filter(member).map(|g| g.gid).collect();
            }
        }
    }
    identity.groups.push(identity.gid);
    identity.groups.sort_unstable();
    identity.groups.dedup();
    match [identity.uid].iter().chain(&identity.groups).find(|id| **id >= RANGE) {
        Some(id) if limited => Err(Error::OutOfRange(*id)),
        _ => Ok(identity),
    }
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    }
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Self { name, gid, members: fields.next().unwrap_or("") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\napp:x:1000:1001:App:/srv/app:/bin/sh\nbig:x:70000:70000::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:app,other\napp:x:1001:\ndisk:x:6:root,app\n";

    fn identity(uid: u32, gid: u32, groups: &[u32], home: Option<&str>) -> Identity {
        Identity { uid, gid, groups: groups.to_vec(), home: home.map(str::to_owned) }
    }

    #[test]
    fn users_are_found_by_name_and_by_id() {
        let table = [
            ("", identity(0, 0, &[0, 6], Some("/root"))),
            ("app", identity(1000, 1001, &[6, 33, 1001], Some("/srv/app"))),
            ("1000", identity(1000, 1001, &[6, 33, 1001], Some("/srv/app"))),
            ("app:web", identity(1000, 33, &[33], Some("/srv/app"))),
            ("1000:0", identity(1000, 0, &[0], Some("/srv/app"))),
            ("4242", identity(4242, 0, &[0], None)),
            ("4242:4243", identity(4242, 4243, &[4243], None)),
            (":33", identity(0, 33, &[33], Some("/root"))),
        ];
        for (user, expected) in table {
            assert_eq!(resolve(user, PASSWD, GROUP, true), Ok(expected), "{user}");
        }
    }

    #[test]
    fn what_the_image_does_not_have_is_refused_by_name() {
        assert_eq!(resolve("nobody", PASSWD, GROUP, true), Err(Error::UnknownUser("nobody".into())));
        assert_eq!(resolve("app:staff", PASSWD, GROUP, true), Err(Error::UnknownGroup("staff".into())));
        assert_eq!(resolve("big", PASSWD, GROUP, true), Err(Error::OutOfRange(70000)));
        assert_eq!(resolve("big", PASSWD, GROUP, false).map(|i| i.uid), Ok(70000));
    }
}
