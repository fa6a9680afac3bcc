package cluster

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"weft/internal/sqldb"
)

const (
	settingSQL       = `SELECT value FROM cluster_settings WHERE name = $1`
	insertSettingSQL = `INSERT INTO cluster_settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`
	setSettingSQL    = `INSERT INTO cluster_settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`
)

const (
	maxSettingName  = 64       // bytes
	maxSettingValue = 64 << 10 // bytes
)

// Setting gives the value that all nodes share under a name (a secret, a key). Who asks first makes it with
// create; where several ask first, each may call create, and all get what one of them made. A value has at least one byte
// and at most 64 KiB, a name 1 to 64 bytes.
func Setting(ctx context.Context, db *sqldb.DB, name string, create func() ([]byte, error)) ([]byte, error) {
	if err := checkText("name of a setting", name, maxSettingName); err != nil {
		return nil, err
	}
	if name == "" {
		return nil, errors.New("cluster: a setting has no name")
	}
	value, err := readSetting(ctx, db, name)
	if !errors.Is(err, sql.ErrNoRows) {
		return value, err
	}
	made, err := create()
	if err != nil {
		return nil, fmt.Errorf("cluster: make setting %s: %w", name, err)
	}
	if len(made) == 0 || len(made) > maxSettingValue {
		return nil, fmt.Errorf("cluster: setting %s has %d bytes, not 1 to %d", name, len(made), maxSettingValue)
	}
	if _, err := db.Exec(ctx, insertSettingSQL, name, made); err != nil {
		return nil, fmt.Errorf("cluster: store setting %s: %w", name, err)
	}
	return readSetting(ctx, db, name)
}

func readSetting(ctx context.Context, db *sqldb.DB, name string) ([]byte, error) {
	var value []byte
	if err := db.QueryRow(ctx, settingSQL, name).Scan(&value); err != nil {
		return nil, fmt.Errorf("cluster: setting %s: %w", name, err)
	}
	return value, nil
}

// SetSetting gives all nodes another value under a name, from when they next ask.
func SetSetting(ctx context.Context, db *sqldb.DB, name string, value []byte) error {
	if err := checkText("name of a setting", name, maxSettingName); err != nil {
		return err
	}
	if name == "" || len(value) == 0 || len(value) > maxSettingValue {
		return fmt.Errorf("cluster: setting %q has %d bytes, not 1 to %d", name, len(value), maxSettingValue)
	}
	if _, err := db.Exec(ctx, setSettingSQL, name, value); err != nil {
		return fmt.Errorf("cluster: store setting %s: %w", name, err)
	}
	return nil
}
