//! Kills whose pods were not known in full when their records went out: asked about once, and
//! answered when the facts are there or the time is over.

use std::sync::Arc;

use tokio::{sync::mpsc, time::timeout_at};

use super::{Pods, source::Quick};
use crate::{
    event::{Enrichment, Whose},
    incident::{Answered, Directory, News, Question},
};

/// Answers questions until nobody asks any more.
pub(super) async fn answer(
    pods: Arc<Pods>,
    quick: Arc<Quick>,
    mut questions: mpsc::Receiver<Arc<Question>>,
    answers: mpsc::Sender<News>,
) {
    // Each waits by itself: one that is never answered must not hold up the next. There are as many
    // at a time as answers fit.
    while let Ok(permit) = answers.clone().reserve_owned().await
        && let Some(question) = questions.recv().await
    {
        let (pods, quick) = (Arc::clone(&pods), Arc::clone(&quick));
        tokio::spawn(async move {
            let _ = timeout_at(question.deadline, learn(&pods, &quick, &question)).await;
            permit.send(answered(&pods, question));
        });
    }
}

/// Asks the sources that answer quickly, then waits until the others have.
async fn learn(pods: &Pods, quick: &Quick, question: &Question) {
    let unanswered = || {
        let known = question.paths.iter().flatten();
        known
            .map(|(path, cut)| pods.look_up(path, *cut))
            .filter(|known| known.is_incomplete())
            .collect::<Vec<_>>()
    };
    for known in unanswered() {
        quick.ask(pods, &known).await;
    }
    if !unanswered().is_empty() {
        // A container may have been given its id after the kubelet was read.
        pods.new_pod.notify_one();
    }
    loop {
        let changed = pods.changed.notified();
        tokio::pin!(changed);
        // From here on no change is missed.
        changed.as_mut().enable();
        if unanswered().is_empty() {
            return;
        }
        changed.await;
    }
}

/// What is known by now.
pub(super) fn answered(pods: &Pods, question: Arc<Question>) -> News {
    let known = question.paths.each_ref().map(|path| {
        let (path, cut) = path.as_ref()?;
        Some(pods.look_up(path, *cut))
    });
    let [victim, trigger] = known
        .each_ref()
        .map(|known| known.as_ref()?.enrichment.clone());
    News::Answered(Box::new(Answered {
        question,
        enrichment: Enrichment::of_both(victim, trigger),
        whose: known.map(|known| known.map_or_else(Whose::default, |known| known.whose)),
    }))
}
