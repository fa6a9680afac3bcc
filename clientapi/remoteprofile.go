package clientapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"

	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	remoteProfileTTL     = 5 * time.Minute
	remoteProfileTimeout = 10 * time.Second
	maxRemoteProfiles    = 5000
)

// remoteProfiles asks other servers for the profiles of their users and keeps
// the answers for a while. Requests for one user at the same time share one.
type remoteProfiles struct {
	fed   Remote
	cache *otter.Cache[id.User, map[string]json.RawMessage]
}

func newRemoteProfiles(fed Remote) (*remoteProfiles, error) {
	cache, err := otter.New(&otter.Options[id.User, map[string]json.RawMessage]{
		MaximumSize:      maxRemoteProfiles,
		ExpiryCalculator: otter.ExpiryWriting[id.User, map[string]json.RawMessage](remoteProfileTTL),
	})
	if err != nil {
		return nil, fmt.Errorf("making the cache of remote profiles: %w", err)
	}
	return &remoteProfiles{fed: fed, cache: cache}, nil
}

func (p *remoteProfiles) get(ctx context.Context, user id.User) (map[string]json.RawMessage, error) {
	if p.fed == nil {
		return nil, merr.NotFound("%s is on another server, and federation is off", user)
	}
	load := func(ctx context.Context, user id.User) (map[string]json.RawMessage, error) {
		// The request must not end with the client that happened to be first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), remoteProfileTimeout)
		defer cancel()
		return p.fed.QueryProfile(ctx, user, "")
	}
	profile, err := p.cache.Get(ctx, user, otter.LoaderFunc[id.User, map[string]json.RawMessage](load))
	if err != nil {
		return nil, remoteFailure(user.Server(), err)
	}
	return profile, nil
}

// peek returns what is known already; nil where nothing is.
func (p *remoteProfiles) peek(user id.User) map[string]json.RawMessage {
	profile, _ := p.cache.GetIfPresent(user)
	return profile
}

// remoteFailure makes another server's refusal, or its silence, an error of
// ours: "there is none" and "not for you" pass, the rest is a bad gateway.
func remoteFailure(server id.Server, err error) error {
	var e *merr.Error
	if errors.As(err, &e) && (e.Status == 404 || e.Status == 403 || e.Code == "M_CONNECTION_TIMEOUT") {
		return err
	}
	return fmt.Errorf("%w (%w)", merr.ConnectionFailed("%s did not answer as it should", server), err)
}
