package eventstore

import (
	"context"
	"embed"

	"weft/internal/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate creates the tables, or brings them up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	return db.Migrate(ctx, "eventstore", migrations)
}
