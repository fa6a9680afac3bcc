package syncapi

import (
	"context"
	"encoding/json"
	"fmt"

	"weft/internal/sqldb"
	"weft/matrix/id"
)

// ReceiveEDU implements api.Sync. An EDU of another type is none of this component's.
func (s *Server) ReceiveEDU(ctx context.Context, origin id.Server, typ string, content json.RawMessage) error {
	switch typ {
	case eduTyping:
		return s.receiveTyping(ctx, origin, content)
	case eduReceipt:
		return s.receiveReceipts(ctx, origin, content)
	case eduPresence:
		return s.receivePresence(ctx, origin, content)
	}
	return nil
}

// DeleteUserData implements api.Sync.
func (s *Server) DeleteUserData(ctx context.Context, user id.User) error {
	return s.db.Update(ctx, func(tx *sqldb.Tx) error {
		for _, q := range []string{deleteReceiptsSQL, deleteFilterSQL} {
			if _, err := tx.Exec(ctx, q, string(user)); err != nil {
				return fmt.Errorf("deleting what is kept for %s: %w", user, err)
			}
		}
		return nil
	})
}
