"""Orders: the request that must never run twice, and the means to count that it did not."""

import os

from fastapi import APIRouter, HTTPException, status
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select

from ..database import Order, Product, SessionDep

router = APIRouter(prefix="/orders", tags=["orders"])


class OrderIn(BaseModel):
    """An order; `key` is the client's own name for it."""

    key: str = Field(min_length=1, max_length=80)
    product_id: int = 1
    quantity: int = Field(default=1, ge=1, le=1000)


class OrderOut(OrderIn):
    """An order as stored, with the process that took it."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    worker: int


class Count(BaseModel):
    """How many rows there are, under how many keys, and the keys that have more than one."""

    rows: int
    keys: int
    twice: list[str]


@router.post("", response_model=OrderOut, status_code=status.HTTP_201_CREATED)
def create_order(order: OrderIn, session: SessionDep) -> Order:
    """Takes an order. Not idempotent: each call that runs writes a row."""
    if session.get(Product, order.product_id) is None:
        raise HTTPException(
            status.HTTP_409_CONFLICT, f"Product {order.product_id} is not for sale."
        )
    row = Order(**order.model_dump(), worker=os.getpid())
    session.add(row)
    session.commit()
    return row


@router.get("", response_model=list[OrderOut])
def list_orders(session: SessionDep, key: str) -> list[Order]:
    """The orders under one key: one, if all is well."""
    return list(session.scalars(select(Order).where(Order.key == key).order_by(Order.id)))


@router.get("/count", response_model=Count)
def count_orders(session: SessionDep, prefix: str = "") -> Count:
    """Counts the orders whose keys begin with `prefix`."""
    ours = Order.key.startswith(prefix, autoescape=True)
    rows = session.scalar(select(func.count()).select_from(Order).where(ours)) or 0
    keys = session.scalar(select(func.count(Order.key.distinct())).where(ours)) or 0
    twice = select(Order.key).where(ours).group_by(Order.key).having(func.count() > 1)
    return Count(rows=rows, keys=keys, twice=list(session.scalars(twice)))
