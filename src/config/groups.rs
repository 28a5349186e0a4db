//! `[[group]]`: devices that the file lets in, under a common name.

use super::reader::Reader;
use super::shapes::{self, Shape};
use super::tables::List;
use super::units::Authorized;
use crate::protocol::roles::Roles;
use crate::protocol::trust::{MAX_MEMBERS, check_group_name};

/// The list in the file.
pub(super) const GROUPS: List = List {
    name: "group",
    keys: &["name", "members", "roles"],
    most: 1000,
};

/// A group that the file declares. Its members are let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRule {
    /// Its name.
    pub name: String,
    /// Its members.
    pub members: Vec<Authorized>,
    /// What they may do where nothing else is said about them.
    pub roles: Option<Roles>,
}

pub(super) fn read(r: &mut Reader<'_>) -> Vec<GroupRule> {
    GROUPS.distinct(r, "name", "the name of one group only");
    let mut groups = Vec::new();
    for table in GROUPS.tables(r) {
        let name = table.needs(r, "name", &name());
        let members = shapes::list::<Authorized>(
            "\"device_id\" or \"device_id name\", where ids have 32 characters of a-z2-7",
        );
        let members = table.needs(r, "members", &members).unwrap_or_default();
        if members.len() > MAX_MEMBERS {
            let got = members.len().to_string();
            table.wrong(r, "members", &format!("at most {MAX_MEMBERS}"), &got);
        }
        let roles = table.take(r, "roles", &roles());
        let Some(name) = name else { continue };
        groups.push(GroupRule {
            name,
            members,
            roles,
        });
    }
    groups
}

fn name() -> Shape<'static, String> {
    let allowed = "the name of a group: 1 to 64 bytes without control characters, commas and \
                   slashes, not \"all\", and no @ or space at its beginning";
    Shape::new(allowed, |value| {
        let name = shapes::text(value)?;
        check_group_name(name).is_ok().then(|| name.to_owned())
    })
}

fn roles() -> Shape<'static, Roles> {
    let words = shapes::list::<String>("");
    Shape::new(
        "a list of \"send\", \"receive\", \"relay\" and \"introduce\"; or \"all\", or \"none\"",
        move |value| {
            let words = (words.parse)(value).filter(|words| !words.is_empty())?;
            words.join(",").parse().ok()
        },
    )
}
