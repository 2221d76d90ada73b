//! `wharfinger admin subscription`: subscriptions, which only operators make.

use clap::Subcommand;
use service::clock::Clock;
use service::configuration::DatabaseUrlArguments;
use store::subscriptions::{Subscription, SubscriptionCreation};
use uuid::Uuid;

use super::{AdminError, display_name, init, open, principal, recorded, say};

/// Subscriptions
#[derive(Subcommand)]
pub(crate) enum SubscriptionCommand {
    /// Make one, with its first Owner
    Create(CreateArguments),
    /// Show every subscription
    List(ListArguments),
    /// Give one another name
    Rename(RenameArguments),
}

#[derive(clap::Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// Its name
    name: String,
    /// Who owns it: an object id, an application id or a user principal name
    #[arg(long, value_name = "PRINCIPAL")]
    owner: String,
}

#[derive(clap::Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
}

#[derive(clap::Args)]
pub(crate) struct RenameArguments {
    #[command(flatten)]
    database: DatabaseUrlArguments,
    /// The subscription
    subscription_id: Uuid,
    /// The new name
    name: String,
}

pub(super) async fn run(command: &SubscriptionCommand, clock: &Clock) -> Result<(), AdminError> {
    match command {
        SubscriptionCommand::Create(arguments) => create(arguments, clock).await,
        SubscriptionCommand::List(arguments) => list(arguments).await,
        SubscriptionCommand::Rename(arguments) => rename(arguments, clock).await,
    }
}

async fn create(arguments: &CreateArguments, clock: &Clock) -> Result<(), AdminError> {
    let name = display_name("name", &arguments.name)?;
    let store = open(&arguments.database).await?;
    let installation = store.installation().await?;
    let owner = principal(&store, &arguments.owner).await?;
    let subscription = Subscription {
        subscription_id: Uuid::new_v4(),
        tenant_id: installation.tenant_id,
        display_name: name.to_owned(),
    };
    let id = subscription.subscription_id;
    let now = clock();
    let assignment = init::owner_assignment(id, &owner, "The subscription began with it.", now);
    let resource = format!("/subscriptions/{id}");
    let work = async {
        match store
            .subscription_create(&subscription, &assignment, now)
            .await?
        {
            SubscriptionCreation::Created(_) => Ok(()),
            SubscriptionCreation::OwnerNotFound => {
                Err(AdminError::NoSuchPrincipal(arguments.owner.clone()))
            }
        }
    };
    let operation = "Microsoft.Resources/subscriptions/write";
    recorded(&store, clock, operation, &resource, work).await?;
    say(&format!(
        "subscription {id} is there; its Owner is {}",
        owner.object_id
    ))
}

async fn list(arguments: &ListArguments) -> Result<(), AdminError> {
    for subscription in open(&arguments.database).await?.subscription_list().await? {
        say(&format!(
            "{}  {}",
            subscription.subscription_id, subscription.display_name
        ))?;
    }
    Ok(())
}

async fn rename(arguments: &RenameArguments, clock: &Clock) -> Result<(), AdminError> {
    let name = display_name("name", &arguments.name)?;
    let id = arguments.subscription_id;
    let store = open(&arguments.database).await?;
    let work = async {
        if store.subscription_rename(id, name).await? {
            Ok(())
        } else {
            Err(AdminError::NoSuchSubscription(id))
        }
    };
    let operation = "Microsoft.Resources/subscriptions/write";
    recorded(
        &store,
        clock,
        operation,
        &format!("/subscriptions/{id}"),
        work,
    )
    .await?;
    say(&format!("subscription {id} is called {name}"))
}
