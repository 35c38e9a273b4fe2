"""The MQTT bridge: publishes a line's results to a broker. docs/plant-mqtt.md describes its topics and payloads."""
