"""Object detectors trained on COCO as multi-label classifiers (report, sections 2.3 and 4.5.1).

A label's probability is the confidence of the best box of its class, 0 without one. Nothing is
trained: a detector has COCO's classes already, and these contain the report's labels.
"""

from mmlabel.models.detectors.boxes import Boxes, best_confidences
from mmlabel.models.detectors.coco_categories import COCO_CATEGORIES, labels_of_classes
from mmlabel.models.detectors.detector import Detector, detector_digest, load_detector

__all__ = [
    "COCO_CATEGORIES",
    "Boxes",
    "Detector",
    "best_confidences",
    "detector_digest",
    "labels_of_classes",
    "load_detector",
]
