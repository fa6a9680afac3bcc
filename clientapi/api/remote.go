package api

import (
	"context"
	"encoding/json"

	"weft/internal/rpc"
	"weft/matrix/id"
)

// AccountsService is the name of Accounts among the services.
const AccountsService = "clientapi.Accounts"

// Remote are the accounts, in whichever process.
type Remote struct{ Caller rpc.Caller }

var _ Accounts = Remote{}

func accounts(method string) rpc.Call {
	return rpc.Call{Service: AccountsService, Method: method, Again: true}
}

// Authenticate implements Accounts.
func (r Remote) Authenticate(ctx context.Context, req Authenticate) (Session, error) {
	return rpc.Get[Session](ctx, r.Caller, accounts("Authenticate"), req)
}

// OpenIDUser implements Accounts.
func (r Remote) OpenIDUser(ctx context.Context, token string) (id.User, error) {
	return rpc.Get[id.User](ctx, r.Caller, accounts("OpenIDUser"), token)
}

// GetAccount implements Accounts.
func (r Remote) GetAccount(ctx context.Context, user id.User) (Account, error) {
	return rpc.Get[Account](ctx, r.Caller, accounts("GetAccount"), user)
}

// GetProfile implements Accounts.
func (r Remote) GetProfile(ctx context.Context, user id.User) (map[string]json.RawMessage, error) {
	return rpc.Get[map[string]json.RawMessage](ctx, r.Caller, accounts("GetProfile"), user)
}

// ListDevices implements Accounts.
func (r Remote) ListDevices(ctx context.Context, user id.User) ([]Device, error) {
	return rpc.Get[[]Device](ctx, r.Caller, accounts("ListDevices"), user)
}

// GetAccountData implements Accounts.
func (r Remote) GetAccountData(ctx context.Context, user id.User, room id.Room, typ string) (json.RawMessage, error) {
	return rpc.Get[json.RawMessage](ctx, r.Caller, accounts("GetAccountData"), user, room, typ)
}

// SetAccountData implements Accounts.
func (r Remote) SetAccountData(ctx context.Context, user id.User, room id.Room, typ string, content json.RawMessage) error {
	return rpc.Do(ctx, r.Caller, accounts("SetAccountData"), user, room, typ, content)
}

// ListAccountData implements Accounts.
func (r Remote) ListAccountData(ctx context.Context, user id.User, from, to int64) ([]AccountData, error) {
	return rpc.Get[[]AccountData](ctx, r.Caller, accounts("ListAccountData"), user, from, to)
}

// ListRuleChanges implements Accounts.
func (r Remote) ListRuleChanges(ctx context.Context, from int64) ([]id.User, error) {
	return rpc.Get[[]id.User](ctx, r.Caller, accounts("ListRuleChanges"), from)
}

// CreateAccount implements Accounts.
func (r Remote) CreateAccount(ctx context.Context, req CreateAccount) error {
	c := accounts("CreateAccount")
	c.Again = false // the second time the name is taken
	return rpc.Do(ctx, r.Caller, c, req)
}

// SetPassword implements Accounts.
func (r Remote) SetPassword(ctx context.Context, user id.User, password string, logoutDevices bool) error {
	return rpc.Do(ctx, r.Caller, accounts("SetPassword"), user, password, logoutDevices)
}

// AccountsMethods lists the methods of Accounts, for processes that run the component.
func AccountsMethods(c Accounts) rpc.Methods {
	return rpc.Methods{
		"Authenticate": c.Authenticate, "OpenIDUser": c.OpenIDUser, "GetAccount": c.GetAccount, "GetProfile": c.GetProfile,
		"ListDevices": c.ListDevices, "GetAccountData": c.GetAccountData, "SetAccountData": c.SetAccountData,
		"ListAccountData": c.ListAccountData, "ListRuleChanges": c.ListRuleChanges, "CreateAccount": c.CreateAccount,
		"SetPassword": c.SetPassword,
	}
}
