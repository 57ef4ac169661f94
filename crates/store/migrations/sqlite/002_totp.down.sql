DROP TABLE mfa_devices;
