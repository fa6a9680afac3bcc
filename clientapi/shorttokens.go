package clientapi

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"weft/internal/sqldb"
	"weft/matrix/merr"
)

// The kinds of short-lived tokens.
const (
	kindLogin  = "login"
	kindOpenID = "openid"
	kindNonce  = "nonce"
)

const (
	insertShortToken = `INSERT INTO short_tokens (kind, token_hash, localpart, expires_ts) VALUES ($1, $2, $3, $4)`
	takeShortToken   = `DELETE FROM short_tokens WHERE kind = $1 AND token_hash = $2 AND expires_ts > $3 RETURNING localpart`
	selectShortToken = `SELECT localpart FROM short_tokens WHERE kind = $1 AND token_hash = $2 AND expires_ts > $3`

	deleteShortTokensOfUser = `DELETE FROM short_tokens WHERE localpart = $1`
)

// newShortToken makes and stores a token of a kind.
func (s *Server) newShortToken(ctx context.Context, kind, prefix, localpart string, lifetime time.Duration) (string, error) {
	token := newSecret(prefix)
	_, err := s.db.Exec(ctx, insertShortToken, kind, tokenHash(token), localpart, s.now().Add(lifetime).UnixMilli())
	if err != nil {
		return "", fmt.Errorf("storing a %s token: %w", kind, err)
	}
	return token, nil
}

// useShortToken takes a token that works once. M_NOT_FOUND where there is none.
func (s *Server) useShortToken(ctx context.Context, tx *sqldb.Tx, kind, token string) (localpart string, err error) {
	err = tx.QueryRow(ctx, takeShortToken, kind, tokenHash(token), s.nowMS()).Scan(&localpart)
	return localpart, shortTokenError(kind, err)
}

// findShortToken looks at a token that works until it expires.
func (s *Server) findShortToken(ctx context.Context, kind, token string) (localpart string, err error) {
	err = s.db.QueryRow(ctx, selectShortToken, kind, tokenHash(token), s.nowMS()).Scan(&localpart)
	return localpart, shortTokenError(kind, err)
}

func shortTokenError(kind string, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return merr.NotFound("the %s token is not known or has expired", kind)
	}
	if err != nil {
		return fmt.Errorf("reading a %s token: %w", kind, err)
	}
	return nil
}
