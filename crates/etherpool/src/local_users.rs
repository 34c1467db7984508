//! Users and groups by the machine's own files alone: who asks a directory service may wait for it.

/// Users' file.
pub const USERS: &str = "/etc/passwd";
/// Groups' file.
pub const GROUPS: &str = "/etc/group";

/// A user's name by the local users file alone.
pub fn user_name(users: &str, uid: u32) -> String {
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("uid {uid}"))
}

/// A group's number by the local file alone.
pub fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// A user's number and that of his group, by his name or number.
pub fn user_ids(users: &str, who: &str) -> Option<(u32, u32)> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (name == who || number == who)
            .then(|| Some((number.parse().ok()?, fields.next()?.parse().ok()?)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_where_the_file_says() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\njoe:x:1000:1000::/home/joe:/bin/sh\n";
        assert_eq!(user_name(users, 0), "root");
        assert_eq!(user_name(users, 1000), "joe");
        assert_eq!(user_name(users, 7), "uid 7");
        let groups = "root:x:0:\nbroken\netherpool:x:990:joe,ann\n";
        assert_eq!(group_id(groups, "etherpool"), Some(990));
        assert_eq!(group_id(groups, "nobody"), None);
        assert_eq!(user_ids(users, "joe"), Some((1000, 1000)));
        assert_eq!(user_ids(users, "0"), Some((0, 0)));
        assert_eq!(user_ids(users, "ann"), None);
        assert_eq!(group_id("etherpool:x:many:\n", "etherpool"), None);
    }
}
