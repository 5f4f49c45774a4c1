"""Products: the usual create, read, update and delete, in plain `def` endpoints."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, status
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from ..database import Product, SessionDep

router = APIRouter(prefix="/products", tags=["products"])


class ProductIn(BaseModel):
    """A product as clients send it."""

    name: str = Field(min_length=1, max_length=80)
    price_cents: int = Field(ge=0, le=100_000_000)
    description: str = Field(default="", max_length=2000)


class ProductOut(ProductIn):
    """A product as clients see it."""

    model_config = ConfigDict(from_attributes=True)

    id: int


def _find(session: SessionDep, product_id: int) -> Product:
    product = session.get(Product, product_id)
    if product is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"There is no product {product_id}.")
    return product


@router.get("", response_model=list[ProductOut])
def list_products(
    session: SessionDep,
    search: str = "",
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> list[Product]:
    """Products whose name contains `search`, by id."""
    query = select(Product).where(Product.name.contains(search, autoescape=True))
    return list(session.scalars(query.order_by(Product.id).offset(offset).limit(limit)))


@router.post("", response_model=ProductOut, status_code=status.HTTP_201_CREATED)
def create_product(product: ProductIn, session: SessionDep) -> Product:
    """Adds a product."""
    row = Product(**product.model_dump())
    session.add(row)
    session.commit()
    return row


@router.get("/{product_id}", response_model=ProductOut)
def read_product(product_id: int, session: SessionDep) -> Product:
    """One product."""
    return _find(session, product_id)


@router.put("/{product_id}", response_model=ProductOut)
def replace_product(product_id: int, product: ProductIn, session: SessionDep) -> Product:
    """Replaces a product."""
    row = _find(session, product_id)
    for field, value in product.model_dump().items():
        setattr(row, field, value)
    session.commit()
    return row


@router.delete("/{product_id}", status_code=status.HTTP_204_NO_CONTENT)
def delete_product(product_id: int, session: SessionDep) -> None:
    """Removes a product."""
    session.delete(_find(session, product_id))
    session.commit()
