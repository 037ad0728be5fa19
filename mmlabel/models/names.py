TORCHVISION_DETECTORS = (
    "ssdlite320_mobilenet_v3_large",
    "retinanet_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn_v2",
)
ULTRALYTICS_DETECTORS = ("yolov5s", "yolov5m", "yolov5l", "yolov5x", "yolov5x6", "file")
