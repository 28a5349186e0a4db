//! What a verb needs to begin: whether mistakes in the settings stop it, and whether it may make a
//! state folder where there is none.

use super::args::{Group, Invite, Invites, Verb};

/// True for verbs that only ask. A running service goes on with the settings from before when the
/// file is broken, so whoever asks it must not be stopped by that.
pub fn only_asks(verb: &Verb) -> bool {
    match verb {
        Verb::Peers(_)
        | Verb::Transfers { .. }
        | Verb::Broadcasts
        | Verb::Versions
        | Verb::Report(_)
        | Verb::Health
        | Verb::Audit(_)
        | Verb::Reload
        | Verb::Doctor(_) => true,
        Verb::Group(group) => matches!(
            group,
            Group::List | Group::Show { .. } | Group::Export { .. }
        ),
        Verb::Invite(Invite { what, .. }) => matches!(what, Some(Invites::List)),
        _ => false,
    }
}

/// True for verbs that may begin a state folder, and with it a new device. The others have nothing
/// to ask or change in one that was not there: its name is likely mistyped.
pub fn may_begin(verb: &Verb) -> bool {
    let changes_what_is_there = match verb {
        Verb::Pause(_)
        | Verb::Resume(_)
        | Verb::Cancel(_)
        | Verb::Accept(_)
        | Verb::Refuse(_)
        | Verb::Rollback { .. } => true,
        Verb::Group(group) => matches!(group, Group::Remove { .. } | Group::Roles { .. }),
        Verb::Invite(Invite { what, .. }) => matches!(what, Some(Invites::Revoke { .. })),
        _ => false,
    };
    !(only_asks(verb) || changes_what_is_there)
}
