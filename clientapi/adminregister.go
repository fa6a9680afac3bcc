package clientapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"weft/clientapi/api"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/merr"
)

// nonceLifetime is how long a nonce of the shared-secret registration is good.
const nonceLifetime = time.Minute

// GetRegisterNonce is GET /_synapse/admin/v1/register: the scheme by which
// tools register users on any homeserver that shares a secret with them.
func (s *Server) GetRegisterNonce(ctx context.Context, _ *httpapi.Request) (any, error) {
	if s.cfg.Registration.SharedSecret == "" {
		return nil, merr.Forbidden("registration by a shared secret is not enabled")
	}
	nonce, err := s.newShortToken(ctx, kindNonce, "", "", nonceLifetime)
	if err != nil {
		return nil, err
	}
	return map[string]string{"nonce": nonce}, nil
}

// sharedSecretRequest is the body of POST /_synapse/admin/v1/register.
type sharedSecretRequest struct {
	Nonce        string  `json:"nonce"`
	Username     string  `json:"username"`
	DisplayName  *string `json:"displayname"`
	Password     string  `json:"password"`
	Admin        bool    `json:"admin"`
	UserType     string  `json:"user_type"`
	MAC          string  `json:"mac"`
	InhibitLogin bool    `json:"inhibit_login"`
}

// mac is the HMAC-SHA1, in hexadecimal, that proves the secret: over nonce,
// user name, password and "admin" or "notadmin", joined by NUL; then the user
// type where there is one.
func (q sharedSecretRequest) mac(secret string) string {
	role := "notadmin"
	if q.Admin {
		role = "admin"
	}
	parts := []string{q.Nonce, q.Username, q.Password, role}
	if q.UserType != "" {
		parts = append(parts, q.UserType)
	}
	h := hmac.New(sha1.New, []byte(secret))
	h.Write([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h.Sum(nil))
}

// RegisterWithSharedSecret is POST /_synapse/admin/v1/register.
func (s *Server) RegisterWithSharedSecret(ctx context.Context, r *httpapi.Request) (any, error) {
	secret := s.cfg.Registration.SharedSecret
	if secret == "" {
		return nil, merr.Forbidden("registration by a shared secret is not enabled")
	}
	var req sharedSecretRequest
	if err := r.DecodeJSON(&req); err != nil {
		return nil, err
	}
	if req.Nonce == "" || req.Username == "" || req.Password == "" || req.MAC == "" {
		return nil, merr.MissingParam("nonce, username, password and mac are needed")
	}
	err := s.db.Update(ctx, func(tx *sqldb.Tx) error {
		_, err := s.useShortToken(ctx, tx, kindNonce, req.Nonce)
		return err
	})
	if errors.Is(err, merr.ErrNotFound) {
		return nil, merr.Unknown("the nonce is not known or has expired")
	}
	if err != nil {
		return nil, err
	}
	if !hmac.Equal([]byte(strings.ToLower(req.MAC)), []byte(req.mac(secret))) {
		return nil, merr.Forbidden("the mac is wrong")
	}
	user, err := s.freeUser(ctx, req.Username, "")
	if err != nil {
		return nil, err
	}
	if err := checkPassword(req.Password); err != nil {
		return nil, err
	}
	hash, err := s.passwords.hash(ctx, req.Password)
	if err != nil {
		return nil, err
	}
	res, err := s.register(ctx, r, registerRequest{InhibitLogin: req.InhibitLogin},
		api.CreateAccount{User: user, Admin: req.Admin}, hash, "")
	if err != nil {
		return nil, err
	}
	if req.DisplayName != nil {
		name, err := json.Marshal(*req.DisplayName)
		if err != nil {
			return nil, fmt.Errorf("writing a display name: %w", err)
		}
		if err := s.storeProfileField(ctx, user, fieldDisplayName, name); err != nil {
			return nil, err
		}
	}
	return res, nil
}
