//! `wharfinger admin administrator`: who administers the directory; the way in when nobody can any more.

use std::path::PathBuf;

use clap::Subcommand;
use control_plane::people;
use credentials::{PasswordVerifier, Secret, SystemRandomness};
use service::clock::Clock;
use service::configuration::{DatabaseUrlArguments, require_secret};
use store::directory::{
    Addressed, DirectoryRole, NewUser, Password, RoleAddition, RoleRemoval, UserCreation,
};
use uuid::Uuid;

use super::{AdminError, display_name, open, principal, recorded, say};

/// Administrators of the directory
#[derive(Subcommand)]
pub(crate) enum AdministratorCommand {
    /// Make a person who administers the directory
    Create(CreateArguments),
    /// Have a principal that is there administer the directory
    Add(PrincipalArguments),
    /// Take the role from a principal; the last one keeps it
    Remove(PrincipalArguments),
    /// Show those who do: object id, kind and name, between tabs
    List(ListArguments),
}

#[derive(clap::Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// The name to sign in with, like alice@example.com
    #[arg(long, value_name = "NAME")]
    user_principal_name: String,
    /// The name as people read it; the part before the @ when left out
    #[arg(long)]
    display_name: Option<String>,
    /// File with the password, readable by its owner only
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct PrincipalArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// An object id, an application id or a user principal name
    principal: String,
}

#[derive(clap::Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
}

pub(super) async fn run(command: &AdministratorCommand, clock: &Clock) -> Result<(), AdminError> {
    match command {
        AdministratorCommand::Create(arguments) => create(arguments, clock).await,
        AdministratorCommand::Add(arguments) => add(arguments, clock).await,
        AdministratorCommand::Remove(arguments) => remove(arguments, clock).await,
        AdministratorCommand::List(arguments) => list(arguments).await,
    }
}

/// What the activity log names, like a request that does the same.
fn resource(object_id: Uuid) -> String {
    let role = DirectoryRole::Administrator.id();
    format!("/providers/Microsoft.Directory/directoryRoles/{role}/members/{object_id}")
}

async fn create(arguments: &CreateArguments, clock: &Clock) -> Result<(), AdminError> {
    let name = arguments.user_principal_name.as_str();
    people::check_user_principal_name(name).map_err(|rule| AdminError::UserPrincipalName {
        name: name.escape_debug().to_string(),
        rule,
    })?;
    let nickname = people::local_part(name);
    let shown = match &arguments.display_name {
        Some(shown) => display_name("display-name", shown)?,
        None => nickname,
    };
    let text = require_secret("password", None, Some(&arguments.password_file))?;
    people::check_password(&text, name).map_err(|rule| AdminError::Password {
        file: arguments.password_file.display().to_string(),
        rule,
    })?;
    let store = open(&arguments.database).await?;
    let object_id = Uuid::new_v4();
    let new = NewUser {
        object_id,
        user_principal_name: name.to_owned(),
        display_name: shown.to_owned(),
        mail_nickname: nickname.to_owned(),
        enabled: true,
        password: Password {
            verifier: PasswordVerifier::of(&Secret::new(text.to_string()), &SystemRandomness),
            credential_id: Uuid::new_v4(),
        },
        must_change_password: false,
        directory_role: Some(DirectoryRole::Administrator),
        created_at: clock(),
    };
    let work = async {
        match store.user_create(&new).await? {
            UserCreation::Created(_) => Ok(()),
            UserCreation::NameTaken => Err(AdminError::NameTaken(name.to_owned())),
        }
    };
    let user = format!("/providers/Microsoft.Directory/users/{object_id}");
    recorded(
        &store,
        clock,
        "Microsoft.Directory/users/write",
        &user,
        work,
    )
    .await?;
    say(&format!("{name} ({object_id}) administers the directory"))
}

async fn add(arguments: &PrincipalArguments, clock: &Clock) -> Result<(), AdminError> {
    let store = open(&arguments.database).await?;
    let object_id = principal(&store, &arguments.principal).await?.object_id;
    let work = async {
        match store
            .directory_role_add(DirectoryRole::Administrator, Addressed::any(object_id))
            .await?
        {
            RoleAddition::Added | RoleAddition::Exists => Ok(()),
            RoleAddition::PrincipalNotFound => {
                Err(AdminError::NoSuchPrincipal(arguments.principal.clone()))
            }
        }
    };
    let operation = "Microsoft.Directory/directoryRoles/addMember/action";
    recorded(&store, clock, operation, &resource(object_id), work).await?;
    say(&format!("{object_id} administers the directory"))
}

async fn remove(arguments: &PrincipalArguments, clock: &Clock) -> Result<(), AdminError> {
    let store = open(&arguments.database).await?;
    let object_id = principal(&store, &arguments.principal).await?.object_id;
    let work = async {
        match store
            .directory_role_remove(DirectoryRole::Administrator, object_id)
            .await?
        {
            RoleRemoval::Removed | RoleRemoval::NotFound => Ok(()),
            RoleRemoval::LastAdministrator => Err(AdminError::LastAdministrator),
        }
    };
    let operation = "Microsoft.Directory/directoryRoles/removeMember/action";
    recorded(&store, clock, operation, &resource(object_id), work).await?;
    say(&format!("{object_id} does not administer the directory"))
}

async fn list(arguments: &ListArguments) -> Result<(), AdminError> {
    const PAGE: i64 = 500;
    let store = open(&arguments.database).await?;
    let mut after = Uuid::nil();
    loop {
        let page = store
            .directory_role_members(DirectoryRole::Administrator, after, PAGE)
            .await?;
        for member in &page {
            say(&format!(
                "{}\t{}\t{}",
                member.object_id, member.kind, member.name
            ))?;
        }
        match page.last() {
            Some(last) => after = last.object_id,
            None => return Ok(()),
        }
    }
}
