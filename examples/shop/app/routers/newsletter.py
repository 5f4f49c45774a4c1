"""The newsletter: a background task that works after the response has left."""

import time

from fastapi import APIRouter, BackgroundTasks, HTTPException, status
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from ..database import SessionDep, Subscription, engine

router = APIRouter(prefix="/newsletter", tags=["newsletter"])


class SubscriptionIn(BaseModel):
    """Who wants to read it."""

    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=200)


class SubscriptionOut(SubscriptionIn):
    """A subscription and whether the background task has confirmed it."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    confirmed: bool


def _confirm(subscription_id: int) -> None:
    time.sleep(0.05)  # stands for the mail server
    with Session(engine) as session:
        row = session.get(Subscription, subscription_id)
        if row is not None:
            row.confirmed = True
            session.commit()


@router.post("", response_model=SubscriptionOut, status_code=status.HTTP_202_ACCEPTED)
def subscribe(
    subscription: SubscriptionIn, session: SessionDep, background: BackgroundTasks
) -> Subscription:
    """Notes the subscription; the confirmation follows in the background."""
    row = Subscription(email=subscription.email, confirmed=False)
    session.add(row)
    session.commit()
    session.refresh(row)
    background.add_task(_confirm, row.id)
    return row


@router.get("/{subscription_id}", response_model=SubscriptionOut)
def read_subscription(subscription_id: int, session: SessionDep) -> Subscription:
    """A subscription."""
    row = session.get(Subscription, subscription_id)
    if row is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "There is no such subscription.")
    return row
