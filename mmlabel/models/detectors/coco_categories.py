"""COCO's categories, and how a detector's classes and a data set's labels are found among them."""

import re
from collections.abc import Mapping, Sequence

from mmlabel.errors import UserError

# Position = category id, "" for the ids that COCO's boxes do not use.
COCO_CATEGORIES = (
    ",person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,,"
    "backpack,umbrella,,,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,"
    "baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,,wine glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,"
    "couch,potted plant,bed,,dining table,,,toilet,,tv,laptop,mouse,remote,keyboard,cell phone,"
    "microwave,oven,toaster,sink,refrigerator,,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush"
).split(",")
CATEGORY_IDS = [number for number, name in enumerate(COCO_CATEGORIES) if name]
# The names of older class lists (Pascal VOC's, which Darknet kept for COCO).
_ALIASES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "tvmonitor": "tv",
    "hairdryer": "hairdrier",
}


def labels_of_classes(
    class_names: Mapping[int, str], *, label_names: Sequence[str], detector: str
) -> dict[int, int]:
    """For each class number of a detector that is a label of the data set: the label's number.

    The class list must be COCO's, either its 80 categories in order or 91 entries by category id;
    a label's class is found by its category id, and then its name must be COCO's, too. Raises
    UserError otherwise; `detector` is for its message.
    """
    if len(class_names) == len(CATEGORY_IDS):
        class_of = {category: i for i, category in enumerate(CATEGORY_IDS)}
    elif len(class_names) == len(COCO_CATEGORIES):
        class_of = {category: category for category in CATEGORY_IDS}
    else:
        shown = ", ".join(list(class_names.values())[:5])
        raise UserError(
            f"detector {detector}: its {len(class_names)} classes ({shown}, ...) are not COCO's 80 "
            "categories, so that its boxes cannot be mapped to labels; use a detector trained on "
            "COCO"
        )
    found, wrong = {}, []
    for label, category in category_of_labels(label_names).items():
        number, name = class_of[category], COCO_CATEGORIES[category]
        if _plain(class_names.get(number, "")) == _plain(name):
            found[number] = label
        else:
            wrong.append(f'class {number} is "{class_names.get(number, "")}" instead of "{name}"')
    if wrong:
        raise UserError(
            f"detector {detector}: its classes are not COCO's: {'; '.join(wrong[:3])}"
            + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            + "; use a detector trained on COCO"
        )
    return found


def category_of_labels(label_names: Sequence[str]) -> dict[int, int]:
    """COCO's category id of each label number that has a name."""
    ids = {_plain(COCO_CATEGORIES[category]): category for category in CATEGORY_IDS}
    names = {label: name for label, name in enumerate(label_names) if name}
    unknown = [name for name in names.values() if _plain(name) not in ids]
    if unknown or not names:
        raise UserError(
            "a detector trained on COCO answers COCO's categories only, but this data set has "
            f"labels named {', '.join(unknown[:10]) or 'nothing'}; use another model, or give its "
            "labels COCO's names"
        )
    return {label: ids[_plain(name)] for label, name in names.items()}


def _plain(name: str) -> str:
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return _ALIASES.get(letters, letters)
